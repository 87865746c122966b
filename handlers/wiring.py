"""Choose the adapters, here and nowhere else; nothing is made before the first event.

Each adapter is imported when it is chosen: a Lambda has no network to run, and a laptop has no AWS.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from handlers import telemetry
from pipeline.aws.clients import Aws
from pipeline.aws.names import StackNames
from pipeline.errors import InputRejected, UsageError
from pipeline.intake import Ports
from pipeline.ports import FullStore, Host, Index, Landing, Queue, Results, Store
from pipeline.records import Job, Outcome
from pipeline.settings import Settings, load_settings
from pipeline.verdict import Release

if TYPE_CHECKING:
    from ec2_runner.reach.fleet import Fleet
    from ec2_runner.reach.lease import Lease
    from ec2_runner.reach.monitor import StackMonitor
    from ec2_runner.reach.observe import Observer
    from ec2_runner.reach.reaper import Reaper
    from ec2_runner.reach.slot import Slot
    from pipeline.aws.sqs import SqsQueue
    from pipeline.aws.topic import Topic
    from pipeline.dicom.arrivals import Arrivals
    from pipeline.dicom.commitment import CommitmentReports, Confirm
    from pipeline.dicom.node import Node
    from pipeline.judge import Judge
    from pipeline.outgoing.delivery import Destination
    from pipeline.outgoing.lane import Outgoing
    from pipeline.running.service import Service
    from pipeline.running.worker import Worker
    from pipeline.settings.tables import Rule, SendTo
    from pipeline.store.s3 import S3Store
    from pipeline.worklist.dynamodb import DynamoIndex
    from pipeline.worklist.mirror import Mirror
    from pipeline.worklist.sqlite import SqliteIndex

# Threads that fetch and write, per image that is judged at a time. A bucket answers slowly, and an
# image that does not finish keeps its thread until its deadline.
_FETCHING = 4
_chosen: Ports | None = None


def ports() -> Ports:
    """Return the ports of the handlers: the provided ones, else those that the settings name."""
    global _chosen  # a Lambda sandbox keeps it between invocations
    if _chosen is None:
        _chosen = make_ports(load_settings())
    return _chosen


def provide(chosen: Ports | None) -> None:
    """Make the handlers work with these ports; None has them chosen anew."""
    global _chosen
    _chosen = chosen


@contextmanager
def provided(settings: Settings) -> Iterator[Ports]:
    """Make the handlers work with the adapters of these settings in a `with` block."""
    chosen = make_ports(settings)
    provide(chosen)
    try:
        yield chosen
    finally:
        chosen.host.abandon()


def make_ports(settings: Settings) -> Ports:
    """Build the adapters that the settings name."""
    store, release = make_store(settings), Release()
    host = make_host(store, settings, release)
    return Ports(
        store,
        make_index(settings),
        host,
        release,
        settings.log_key,
        make_queue(settings),
        telemetry.count,
        topic=_topic(settings, store),
    )


def _topic(settings: Settings, store: Store) -> "Topic | None":
    """Return the topic of the stack's notices; None without one."""
    if settings.notices_topic is None:
        return None
    from pipeline.aws.topic import Topic

    return Topic(settings.notices_topic, aws().client("sns"), store, settings.log_key)


@functools.cache
def aws() -> Aws:
    """Return this process's account and region of AWS, from its environment."""
    return Aws()


def make_store(settings: Settings) -> FullStore:
    """Build the store: the folder, or the bucket."""
    if settings.bucket is None:
        from pipeline.store.folder import FolderStore

        return FolderStore(settings.root)
    return open_bucket(settings.bucket)


def open_bucket(name: str) -> "S3Store":
    """Return a bucket's store, with the credentials of the environment."""
    s3 = aws().client("s3")
    from pipeline.store.s3 import S3Store

    return S3Store(name, s3)


def make_index(settings: Settings) -> Index:
    """Return the worklist: a file in the folder, or the table of the bucket's stack."""
    if settings.bucket is None:
        from pipeline.store.folder import PRIVATE_FOLDER
        from pipeline.worklist.sqlite import SqliteIndex

        return SqliteIndex(settings.root / PRIVATE_FOLDER / "index.sqlite")
    return make_dynamo_index(settings)


def make_dynamo_index(settings: Settings) -> "DynamoIndex":
    """Build the worklist of a stack."""
    from pipeline.worklist.dynamodb import DynamoIndex

    return DynamoIndex(StackNames(settings.stack).index, aws().client("dynamodb"))


def make_mirror(settings: Settings) -> "tuple[Mirror, SqliteIndex]":
    """Build the local copy of a stack's worklist, for the page, and what keeps it up to date."""
    from pipeline.store.folder import PRIVATE_FOLDER
    from pipeline.worklist.mirror import Mirror
    from pipeline.worklist.sqlite import SqliteIndex

    copy = SqliteIndex(settings.root / PRIVATE_FOLDER / f"{settings.bucket}.sqlite")
    return Mirror(make_dynamo_index(settings), copy), copy


def make_results(store: Store, settings: Settings) -> Results:
    """Return what makes DICOM objects of the store's verdicts; its libraries are loaded on use."""
    from model.results.make import ResultMaker
    from model.serve.guarded import picture_maker

    shown = settings.model_copy(update={"burned_in_previews": True})
    return ResultMaker(store, settings.max_bytes, picture_maker(shown))


def outgoing_path(settings: Settings) -> Path:
    """Return the file of the queue of results to send: one for the folder, or for each bucket."""
    from pipeline.store.folder import PRIVATE_FOLDER

    name = f"{settings.bucket}_outgoing" if settings.bucket else "outgoing"
    return settings.root / PRIVATE_FOLDER / f"{name}.sqlite"


def make_outgoing(settings: Settings, store: Store, index: "SqliteIndex") -> "Outgoing | None":
    """Build what sends results and notices where the settings say; None without. Raises UsageError."""
    if not settings.send and not settings.notify:
        return None
    if {table.name for table in settings.send} & {table.name for table in settings.notify}:
        raise UsageError("a [[send]] and a [[notify]] table have the same name: give each its own")
    from pipeline.notices.receivers import make_receiver
    from pipeline.outgoing.lane import Lane, Outgoing
    from pipeline.outgoing.queue import OutgoingQueue

    key = _lasting_key(settings, "notices.key") if settings.notify else ""
    chosen: list[tuple[Destination, Rule]] = [
        (make_receiver(table, key, settings.page_url), table) for table in settings.notify
    ]
    queue = OutgoingQueue(outgoing_path(settings))
    reports = None if settings.dicom_port is None else _reports(queue.confirm)
    results = make_results(store, settings)
    chosen += [(_destination(table, settings, results, reports), table) for table in settings.send]
    lanes = [Lane(to, rule, queue, index, store, settings.log_key) for to, rule in chosen]
    return Outgoing(queue, lanes, index)


def _lasting_key(settings: Settings, name: str) -> str:
    """Return the key that people set, or one that is kept in a file: not a new one at each start."""
    from pipeline.dicom.arrivals import lasting_secret
    from pipeline.store.folder import PRIVATE_FOLDER

    if "log_key" in settings.model_fields_set:
        return settings.log_key
    return lasting_secret(settings.root / PRIVATE_FOLDER / name)


def _destination(
    table: "SendTo", settings: Settings, results: Results, reports: "CommitmentReports | None"
) -> "Destination":
    """Build the destination of a `[[send]]` table."""
    from pipeline.dicom.outbound import check_files, tls_of

    check_files(table.ca, table.certificate, table.key)
    scheme = table.parts.scheme
    tls = tls_of(table) if scheme in ("dicoms", "https") else None  # reports wrong files now
    if scheme not in ("dicom", "dicoms"):
        from pipeline.dicom.stow_client import StowClient

        return StowClient(table, results)
    from pipeline.dicom.store_scu import Peer, StoreScu

    peer = Peer(*table.peer, table.ae_title or settings.ae_title, tls)
    return StoreScu(table.name, peer, results, reports)


def _reports(confirm: "Confirm") -> "CommitmentReports":
    from model.serve.dicom import network
    from pipeline.dicom.commitment import CommitmentReports

    return CommitmentReports(network.read_report, confirm)


def make_arrivals(settings: Settings, store: Landing) -> "Arrivals":
    """Build what takes DICOM objects from the network into a store's inbox; one of each process."""
    from model.serve.dicom import network
    from pipeline.dicom.arrivals import Arrivals, Kinds
    from pipeline.store.folder import PRIVATE_FOLDER

    private = settings.root / PRIVATE_FOLDER
    kinds = Kinds(
        network.RADIOGRAPHS, network.SYNTAXES, network.announce, network.identify, network.fingerprint
    )
    secret = _lasting_key(settings, "dicom.key")
    folder = private / f"dicom-{settings.bucket or 'up'}"  # the lock of `cxr up` makes it this process's own
    return Arrivals(store, folder, kinds, settings.max_bytes, secret, settings.log_key)


def make_node(settings: Settings, arrivals: "Arrivals", confirm: "Confirm | None" = None) -> "Node":
    """Build the DICOM node; it listens from then on. Raises UsageError.

    With `confirm`, it takes reports of storage commitment.
    """
    from pipeline.dicom.node import Node, door_of, terms_of

    door = door_of(settings)
    try:
        return Node(door, terms_of(settings, arrivals.kinds), arrivals, confirm and _reports(confirm))
    except OSError as error:
        raise UsageError(
            f"cannot listen on port {door.port} of {door.address} ({error.strerror}); "
            "name another --dicom-port"
        ) from error


def make_queue(settings: Settings) -> "SqsQueue | None":
    """Build the queue that brings a job again; None in local mode, which has its own."""
    if settings.queue_url is None:
        return None
    from pipeline.aws.sqs import SqsQueue

    sqs, bucket = aws().client("sqs"), settings.bucket or ""
    return SqsQueue(settings.queue_url, sqs, bucket, lambda: aws().client("cloudwatch"))


def find_queue(settings: Settings) -> Queue:
    """Return the stack's queue of jobs, found by its name."""
    from pipeline.aws.errors import ask

    sqs = aws().client("sqs")
    found = ask("the queue", sqs.get_queue_url, QueueName=StackNames(settings.stack).jobs)
    queue = make_queue(settings.model_copy(update={"queue_url": found["QueueUrl"]}))
    assert queue is not None
    return queue


def make_host(store: Store, settings: Settings, release: Release) -> Host:
    """Build the host that judges: this process, or a machine reached by SSH."""
    if settings.host == "local":
        return make_service(store, settings, release)  # now, so that a wrong setting is reported at once
    return _Later(lambda: _remote_host(store, settings, release))


def make_service(store: Store, settings: Settings, release: Release) -> "Service":
    """Build the worker, and what counts its jobs for those who watch it."""
    from pipeline.running.service import Service

    worker = make_worker(store, settings, release)
    return Service(worker, worker.model, release)


def make_worker(store: Store, settings: Settings, release: Release) -> "Worker":
    """Build the worker that the settings ask for, with its network loaded."""
    from pipeline.running.worker import Worker

    return Worker(*make_judge(store, settings, release))


def make_judge(
    store: Store, settings: Settings, release: Release, upgrades: bool = False
) -> "tuple[Judge, int]":
    """Build the judge that the settings ask for, its network loaded; return it and its thread count."""
    from model.serve.guarded import GuardedEngine
    from pipeline.judge import Judge

    engine = GuardedEngine.of(settings)
    try:
        engine.warm(settings.threads + 1)  # one spare, for when another is killed or busy with a slow image
        assert engine.model  # loaded now, so that wrong weights are reported at once
        judge = Judge(store, engine, release, settings.max_bytes, upgrades)
    except BaseException:
        engine.close()
        raise
    return judge, settings.threads * _FETCHING


def check_worker(settings: Settings) -> None:
    """Check that a worker can decode and judge a picture; raise any error on the way."""
    import io

    from PIL import Image

    from model.serve.guarded import GuardedEngine

    picture = io.BytesIO()
    Image.linear_gradient("L").save(picture, "JPEG")
    with GuardedEngine.of(settings) as engine, suppress(InputRejected):  # the verdict: not a chest X-ray
        engine.examine(picture.getvalue())


def _remote_host(store: Store, settings: Settings, release: Release) -> Host:
    from ec2_runner.reach.remote import RemoteHost
    from ec2_runner.reach.route import Ec2Route, SshRoute

    if settings.host == "ssh":
        return RemoteHost(SshRoute(settings), settings.worker_port, release, settings.worker_token)
    routes = [Ec2Route(slot, store, settings, aws()) for slot in make_slots(settings)]
    hosts = [RemoteHost(route, settings.worker_port, release, settings.worker_token) for route in routes]
    if len(hosts) == 1:
        return hosts[0]
    from ec2_runner.reach.pool import Demand, Pool

    queue = make_queue(settings)
    assert queue is not None  # a stack has one
    return Pool(list(hosts), Demand(queue, make_observer(settings, store), len(hosts)), telemetry.count)


class _Later:
    """Defer making a host until there is a job: only one of the five functions has jobs."""

    def __init__(self, make: Callable[[], Host]) -> None:
        self._make = make
        self._host: Host | None = None

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Yield one outcome for each job, in the order in which they finish."""
        if self._host is None:
            self._host = self._make()
        return self._host.run(jobs)

    def abandon(self) -> None:
        """Abort work in progress, if the host was ever made."""
        if self._host:
            self._host.abandon()


def make_fleet(settings: Settings) -> "Fleet":
    """Build the fleet of the stack's EC2 instances."""
    from ec2_runner.reach.fleet import Fleet

    return Fleet(aws().client("ec2"), settings.stack, settings.template_version)


def make_slots(settings: Settings) -> "list[Slot]":
    """Build the slots of the stack's hosts: as many as it may have at a time."""
    from ec2_runner.reach.fleet import Placement
    from ec2_runner.reach.slot import Slot

    kinds, subnets = settings.instance_types, settings.subnets
    markets = (True, False) if settings.spot else (False,)  # On-Demand where there is no Spot capacity
    places = [Placement(subnet, kind, spot) for spot in markets for kind in kinds for subnet in subnets]
    fleet = make_fleet(settings)
    return [Slot(fleet, lease, places) for lease in _leases(settings)]


def _leases(settings: Settings) -> "list[Lease]":
    from ec2_runner.reach.lease import Lease

    table, client = StackNames(settings.stack).lease, aws().client("dynamodb")
    return [Lease(table, client, slot) for slot in range(1, settings.max_hosts + 1)]


def reaper() -> "Reaper":
    """Build the reaper of the stack's instances."""
    from ec2_runner.reach.reaper import Reaper

    settings = load_settings()
    fleet, store, idle_seconds = make_fleet(settings), make_store(settings), settings.idle_minutes * 60
    return Reaper(fleet, _leases(settings), store, settings.host_role_id, idle_seconds)


def make_observer(settings: Settings, store: Store) -> "Observer":
    """Build the observer of the stack's host and queues."""
    from ec2_runner.reach.observe import Observer

    clients = aws().client("sqs"), aws().client("cloudwatch")
    return Observer(StackNames(settings.stack), make_fleet(settings), store, *clients)


def make_monitor(settings: Settings, store: Store) -> "StackMonitor":
    """Build the monitor through which the page sees the stack's host and queue."""
    from ec2_runner.reach.monitor import StackMonitor

    return StackMonitor(make_observer(settings, store))
