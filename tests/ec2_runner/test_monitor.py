"""The monitor, which tells the page about host and queue: of this process, and of a stack in moto."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cxr import local
from ec2_runner.host.agent import Publisher
from ec2_runner.reach.fleet import Fleet, Instance
from ec2_runner.reach.monitor import StackMonitor, host_status, together
from ec2_runner.reach.observe import Observer
from handlers import wiring
from pipeline.aws.errors import AwsRefused
from pipeline.aws.names import StackNames
from pipeline.records import HostState, HostStatus, Job, Operations, Outcome, QueueStatus
from pipeline.running.service import Service, WorkerState, WorkerStatus
from pipeline.store.s3 import S3Store
from pipeline.verdict import Release
from tests.support.fakes import FakeEngine, InlineHost, MemoryStore, make_judge, make_ports
from tests.support.machines import wait_for

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MODEL, RELEASE = FakeEngine.model, Release(number=7, version="test")

# Local mode


class Gate(InlineHost):
    """Judge only when the test allows it."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(make_judge(store))
        self.open = threading.Event()

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        assert self.open.wait(20)
        yield from super().run(jobs)


def test_a_worker_of_this_process_and_its_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_PAUSES", (0.0,))
    store = MemoryStore()
    gate = Gate(store)
    service = Service(gate, MODEL, RELEASE)
    ports = replace(make_ports(tmp_path, store), host=service)
    wiring.provide(ports)
    queue = local.LocalQueue(ports)
    look = local.LocalMonitor(service, queue).look
    try:
        assert (look().host.state, look().queue) == ("ready", QueueStatus(0))
        begun = datetime.now(UTC)
        store.objects |= {"inbox/a": b"P", "inbox/b": b"boom"}
        queue.send([Job("inbox/a", since=begun - timedelta(hours=1))])
        queue.hint("inbox/b", False)
        queue.send([Job("inbox/c", since=begun)], delay=3600)
        wait_for(lambda: look().host.state == "busy")
        busy = look()
        assert busy.queue == QueueStatus(3, begun - timedelta(hours=1))
        assert busy.host.active in (1, 2)  # in one batch or two
        assert busy.host.since is not None
        assert busy.host.since >= begun
        gate.open.set()
        wait_for(lambda: look().queue.depth == 1)
        after = look()
        assert after.queue.oldest == begun
        assert (after.host.state, after.host.active) == ("ready", 0)
        assert after.host.since is not None
        assert after.host.since > busy.host.since
        assert after.host.jobs_a_minute >= 3  # `b` was delivered twice
        assert after.host.last_error == "RuntimeError at fakes.py:90"
        assert after.host.last_error_at is not None
        assert (after.host.model, after.host.release) == (MODEL, RELEASE)
    finally:
        gate.open.set()
        queue.stop()
        ports.index.close()  # type: ignore[attr-defined]


# A stack


def said(state: WorkerState, at: datetime, **more: Any) -> WorkerStatus:
    known: dict[str, Any] = {
        "state": state,
        "since": at - timedelta(minutes=4),
        "release": RELEASE,
        "model": MODEL,
        "started_at": at - timedelta(hours=1),
        "at": at,
        "last_job_at": None,
        "active": 3,
        "results": {"classified": 9},
        "jobs_a_minute": 40,
        "last_error": None,
        "last_error_at": None,
    }
    return WorkerStatus(**known | more)


def ago(**time: float) -> datetime:
    return NOW - timedelta(**time)


@pytest.mark.parametrize(
    ("of_ec2", "launched", "word", "state", "since"),
    [
        ("pending", ago(seconds=9), None, "starting", ago(seconds=9)),
        ("running", ago(minutes=9), None, "starting", ago(minutes=9)),
        ("running", ago(minutes=9), said("busy", ago(minutes=10)), "starting", ago(minutes=9)),
        ("running", ago(minutes=16), None, "unknown", ago(minutes=16)),
        ("running", ago(hours=1), said("busy", ago(seconds=80)), "busy", ago(seconds=80, minutes=4)),
        ("running", ago(hours=1), said("ready", ago(seconds=80)), "ready", ago(seconds=80, minutes=4)),
        ("running", ago(hours=1), said("ready", ago(seconds=100)), "unknown", ago(seconds=100)),
        ("running", ago(minutes=9), said("busy", ago(seconds=100)), "unknown", ago(seconds=100)),
        ("running", ago(hours=1), said("stopping", ago(seconds=9)), "stopping", ago(seconds=9, minutes=4)),
        ("running", ago(hours=1), said("stopping", ago(minutes=3)), "starting", ago(minutes=3)),
        ("running", ago(hours=1), said("stopping", ago(minutes=16)), "unknown", ago(minutes=16)),
        ("stopping", ago(hours=1), said("ready", ago(seconds=9)), "stopping", ago(seconds=9)),
        ("shutting-down", ago(hours=1), None, "stopping", None),
        ("stopped", ago(hours=1), said("stopping", ago(minutes=30)), "off", ago(minutes=30)),
        ("terminated", ago(hours=1), None, "off", None),
    ],
)
def test_the_states_of_a_stacks_host(
    of_ec2: Any, launched: datetime, word: WorkerStatus | None, state: HostState, since: datetime | None
) -> None:
    found = host_status(Instance("i-1", of_ec2, "", launched.timestamp()), word, NOW)
    assert (found.state, found.since) == (state, since)
    believed = state in ("busy", "ready") or (of_ec2, state) == ("running", "stopping")
    assert (found.active, found.jobs_a_minute) == ((3, 40) if believed else (0, 0))
    assert bool(found.detail) is (state == "unknown")


def test_several_hosts_are_shown_as_one() -> None:
    launched = ago(hours=1).timestamp()
    running = Instance("i-1", "running", "", launched)
    failed = said("ready", ago(seconds=9), last_error="a defect of ours", last_error_at=ago(minutes=3))
    hosts = [
        host_status(Instance("i-0", "stopped", "", launched), None, NOW),
        host_status(running, said("busy", ago(seconds=80)), NOW),
        host_status(running, failed, NOW),
        host_status(running, said("ready", ago(minutes=9)), NOW),  # silent
    ]
    seen = together(hosts)
    assert (seen.state, seen.hosts, seen.active, seen.jobs_a_minute) == ("busy", 3, 6, 80)
    assert seen.last_error == "a defect of ours"
    assert "does not report" in seen.detail
    assert together([]) == HostStatus("off")
    assert together(hosts[:1]).hosts == 0
    assert together(hosts[1:2]) == hosts[1]


@dataclass
class Stack:
    """Hold the parts of a stack that the monitor reads, and the monitor."""

    store: S3Store
    monitor: StackMonitor

    def client(self, service: str) -> Any:
        return boto3.client(service)

    def launch(self) -> str:
        """Launch a running host and return its id."""
        ec2 = self.client("ec2")
        tags = [{"Key": "cxr:stack", "Value": "cxr-inbox"}]
        made = ec2.run_instances(
            ImageId="ami-12c6146b",
            InstanceType="t3.medium",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        instance: str = made["Instances"][0]["InstanceId"]
        return instance

    def say(self, instance: str, status: WorkerStatus) -> None:
        """Publish the host's state, as the host does."""
        place = Publisher(self.store, f"AROA:{instance}")
        assert place.publish("status.json", status.model_dump(mode="json"))

    def look(self) -> Operations:
        self.monitor.step()
        return self.monitor.look()


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="xrays")
        boto3.client("sqs").create_queue(QueueName="cxr-inbox-jobs")
        store = S3Store("xrays", boto3.client("s3"))
        fleet = Fleet(boto3.client("ec2"), "cxr-inbox")
        clients = boto3.client("sqs"), boto3.client("cloudwatch")
        yield Stack(store, StackMonitor(Observer(StackNames("cxr-inbox"), fleet, store, *clients)))


def test_before_the_first_look_nothing_is_known(stack: Stack) -> None:
    seen = stack.monitor.look()
    assert (seen.host.state, seen.queue.depth) == ("unknown", None)


def test_a_stack_from_no_host_to_a_host_that_is_off(stack: Stack) -> None:
    assert stack.look().host == HostStatus("off")
    instance = stack.launch()
    assert stack.look().host.state == "starting"
    now = datetime.now(UTC)
    stack.say(instance, said("busy", now + timedelta(seconds=1), last_error="a defect of ours"))
    seen = stack.look().host
    assert (seen.state, seen.active, seen.jobs_a_minute) == ("busy", 3, 40)
    assert (seen.model, seen.release, seen.last_error) == (MODEL, RELEASE, "a defect of ours")
    stack.client("ec2").stop_instances(InstanceIds=[instance])
    seen = stack.look().host
    assert (seen.state, seen.active, seen.jobs_a_minute) == ("off", 0, 0)
    assert seen.since == now + timedelta(seconds=1)
    stack.client("ec2").terminate_instances(InstanceIds=[instance])
    assert stack.look().host.state == "off"


def test_words_that_cannot_be_read_are_none(stack: Stack) -> None:
    instance = stack.launch()
    stack.store.put(f"system/hosts/AROA:{instance}/status.json", b"[damaged", None)
    assert stack.look().host.state == "starting"


def test_the_queue_and_its_oldest(stack: Stack) -> None:
    now = datetime.now(UTC)
    metric = {
        "MetricName": "OldestWaitingSeconds",
        "Dimensions": [{"Name": "service", "Value": "cxr-inbox"}],
        "Timestamp": now - timedelta(minutes=2),
        "Value": 600.0,
    }
    stack.client("cloudwatch").put_metric_data(Namespace="CXRInbox", MetricData=[metric])
    assert stack.look().queue == QueueStatus(0)  # the waiting work is done
    url = stack.client("sqs").get_queue_url(QueueName="cxr-inbox-jobs")["QueueUrl"]
    for delay in (0, 0, 600):
        stack.client("sqs").send_message(QueueUrl=url, MessageBody="x", DelaySeconds=delay)
    stack.client("sqs").receive_message(QueueUrl=url)
    seen = stack.look().queue
    assert seen.depth == 3
    assert seen.oldest is not None
    assert abs(seen.oldest - (now - timedelta(minutes=12))) <= timedelta(minutes=1)  # CloudWatch's step


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make EC2 refuse to describe instances, which moto never does."""

    def describe(*_: object, **__: object) -> None:
        raise AwsRefused("EC2", "AccessDenied")

    monkeypatch.setattr(Fleet, "instances", describe)


def test_what_aws_refuses_is_unknown_and_says_why(
    stack: Stack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch)
    for _ in range(2):
        seen = stack.look()
        assert (seen.host.state, seen.queue) == ("unknown", QueueStatus(0))
        assert seen.host.detail == "EC2 refused: AccessDenied (these credentials lack a permission)."
    assert len(caplog.records) == 1  # said once
    stack.client("sqs").delete_queue(
        QueueUrl=stack.client("sqs").get_queue_url(QueueName="cxr-inbox-jobs")["QueueUrl"]
    )
    seen = stack.look()
    assert seen.queue.depth is None
    assert "--stack" in seen.queue.detail


class Pauses(threading.Event):
    """Note the length of each wait; be set after a number of waits."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.seconds = count, []  # type: tuple[int, list[float | None]]

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return len(self.seconds) > self.count


def test_it_looks_at_once_and_rarely_while_nobody_answers(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = Pauses(2)
    stack.monitor.run(fine)
    assert fine.seconds == [0, 10, 10]
    refuse(monkeypatch)
    refused = Pauses(4)
    stack.monitor.run(refused)
    assert refused.seconds == [0, 10, 20, 40, 60]
