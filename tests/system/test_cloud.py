"""The whole cloud path, from S3's notification to the verdict and its row, and its faults."""

import json
import random
import signal
import time
from collections.abc import Iterator, Mapping

import pytest

from tests.ec2_runner.test_remote import needs_sshd
from tests.support.cloud import BUCKET, Cloud, Pump, until
from tests.support.engine_child import CRASHES, SLOW
from tests.support.fakes import XRAYS
from tests.support.machines import InvocationFailed

pytestmark = [needs_sshd, pytest.mark.timeout(300)]

IMAGES = [path.read_bytes() for path in XRAYS]


def images(count: int) -> Iterator[bytes]:
    """Return different X-rays: bytes after the end of an image change its ETag but not its pixels."""
    for number in range(count):
        yield IMAGES[number % len(IMAGES)] + b"%d" % number


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Provide an account whose host was launched by the first upload and has booted."""
    cloud = Cloud(tmp_path_factory.mktemp("cloud"))
    try:
        cloud.drop({"first.jpeg": IMAGES[0]})
        pumps = [Pump(cloud, cloud.jobs, "ingest"), Pump(cloud, cloud.told, "record")]
        cloud.boot()
        until(lambda: cloud.verdict("first.jpeg"))
        for pump in pumps:
            pump.stop()
        cloud.first = pumps[0].answers
        yield cloud
    finally:
        cloud.stop()


class Pumps:
    """Run the event source mappings."""

    def __init__(self, cloud: Cloud, unruly: random.Random | None = None) -> None:
        self.ingest = Pump(cloud, cloud.jobs, "ingest", unruly)
        self.record = Pump(cloud, cloud.told, "record", unruly)
        self.dead = Pump(cloud, cloud.dead, "dead_letter")

    def stop(self) -> None:
        for pump in (self.ingest, self.record, self.dead):
            pump.stop()


@pytest.fixture
def pumps(cloud: Cloud) -> Iterator[Pumps]:
    pumps = Pumps(cloud)
    yield pumps
    pumps.stop()


@pytest.fixture
def unruly(cloud: Cloud) -> Iterator[Pumps]:
    """Provide pumps that duplicate and reorder messages."""
    pumps = Pumps(cloud, random.Random(1))
    yield pumps
    pumps.stop()


def wait_until_all_are_told(cloud: Cloud, objects: Mapping[str, bytes], seconds: float = 90) -> None:
    """Wait until each object has one verdict of its current bytes, and the index says so."""
    etags = {name: info.etag for name in objects if (info := cloud.store.head(f"inbox/{name}"))}

    def told() -> bool:
        rows = cloud.rows()
        return all(
            (row := rows.get(f"inbox/{name}")) and row.etag == etag and row.waiting_since is None
            for name, etag in etags.items()
        )

    deadline = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < deadline, "some objects have no verdict, or no row of it"
        time.sleep(1)  # moto has one core for all who ask
    verdicts = cloud.verdicts(next(iter(objects)).partition("/")[0] + "/")
    assert {name: verdicts[name].source.etag for name in etags} == etags


def test_the_first_upload_launches_the_host_and_waits_for_it(cloud: Cloud) -> None:
    results = [outcome["result"] for answer in cloud.first for outcome in answer["outcomes"]]
    assert results[0] == "waiting"
    assert set(results) <= {"waiting", "classified", "current"}
    assert "classified" in results
    reservations = cloud.ec2.describe_instances()["Reservations"]
    assert sum(len(found["Instances"]) for found in reservations) == 1
    log = cloud.lambdas["ingest"].process.output()
    assert "OldestWaitingSeconds" in log  # the alarm's figure
    assert "first.jpeg" not in log  # but no name


def test_a_hundred_images_and_some_that_are_none(cloud: Cloud, unruly: Pumps) -> None:
    objects = {f"many/ward {n % 7}/{n}+ü.jpeg": data for n, data in enumerate(images(100))}
    objects |= {f"many/bad{n}.jpeg": b"no image %d" % n for n in range(10)}
    cloud.drop(objects)
    wait_until_all_are_told(cloud, objects)
    verdicts = cloud.verdicts("many/")
    assert set(verdicts) == set(objects)
    assert cloud.writes("many/") == dict.fromkeys(objects, 1)  # duplicates and disorder wrote nothing twice
    for name, verdict in verdicts.items():
        assert verdict.status == ("rejected" if "bad" in name else "classified")
        assert (verdict.preview_key is None) == ("bad" in name)
    assert not unruly.ingest.failures
    assert cloud.worker
    assert "many/" not in cloud.worker.output() + cloud.lambdas["ingest"].process.output()


def test_a_worker_that_is_killed_in_the_middle(cloud: Cloud, pumps: Pumps) -> None:
    objects = {f"killed/{n}.jpeg": data + SLOW for n, data in enumerate(images(24))}
    cloud.drop(objects)
    assert cloud.worker
    for done in (4, 10):
        until(lambda done=done: cloud.count("killed/") >= done)  # type: ignore[misc]
        cloud.worker.kill()
    wait_until_all_are_told(cloud, objects)
    assert {verdict.status for verdict in cloud.verdicts("killed/").values()} == {"classified"}
    assert signal.SIGKILL in [-code for code in cloud.worker.exit_codes]
    assert cloud.writes("killed/") == dict.fromkeys(objects, 1)


def test_one_image_that_ends_the_worker_fails_alone(cloud: Cloud, pumps: Pumps) -> None:
    objects = {f"poison/{n}.jpeg": data for n, data in enumerate(images(31))}
    objects["poison/bomb.jpeg"] = IMAGES[0] + CRASHES
    cloud.drop(objects)
    wait_until_all_are_told(cloud, objects)
    statuses = {name: verdict.status for name, verdict in cloud.verdicts("poison/").items()}
    assert statuses.pop("poison/bomb.jpeg") == "failed"
    assert list(statuses.values()) == ["classified"] * 31
    bomb = cloud.verdict("poison/bomb.jpeg")
    assert bomb
    assert bomb.reason
    assert bomb.reason.code == "crashed"
    assert "Export the X-ray again" in bomb.reason.message
    cloud.drop({"poison/bomb.jpeg": IMAGES[1]})  # and a failed one can be dropped again
    wait_until_all_are_told(cloud, objects)
    bomb = cloud.verdict("poison/bomb.jpeg")
    assert bomb
    assert bomb.status == "classified"


def test_tunnels_that_are_cut(cloud: Cloud, unruly: Pumps) -> None:
    objects = {f"cut/{n}.jpeg": data + SLOW for n, data in enumerate(images(25))}
    cloud.drop(objects)
    for done in (1, 8, 15):
        until(lambda done=done: cloud.count("cut/") >= done)  # type: ignore[misc]
        cloud.endpoint.cut()
    wait_until_all_are_told(cloud, objects)
    assert cloud.writes("cut/") == dict.fromkeys(objects, 1)


def test_objects_that_change_while_they_are_judged(cloud: Cloud, unruly: Pumps) -> None:
    names = [f"changing/{n}.jpeg" for n in range(15)]
    for data in images(3):
        cloud.drop({name: data + str(n).encode() + SLOW for n, name in enumerate(names)})
        time.sleep(0.4)
    for name in names[::3]:
        cloud.s3.delete_object(Bucket=BUCKET, Key=f"inbox/{name}")
    wait_until_all_are_told(cloud, dict.fromkeys(names, b""))

    until(lambda: sum(cloud.queued().values()) == 0)
    # A deletion told before the verdict of what was deleted is noted at the next look over the inbox.
    reconciler = cloud.make_lambda("reconcile")
    reconciler.invoke({})
    reconciler.stop()
    rows = cloud.rows()
    gone = {name: rows.get(f"inbox/{name}") for name in names[::3]}
    assert all(row is None or row.source == "deleted" for row in gone.values())


def ask(cloud: Cloud, name: str) -> dict[str, str]:
    """Deliver a key to `ingest` by hand and return its result."""
    event = {"Records": [_message(name)]}
    answer = cloud.lambdas["ingest"].invoke(event)
    return {outcome["key"]: outcome["result"] for outcome in answer["outcomes"]}


def _message(name: str) -> dict[str, object]:
    from pipeline.events import s3_event

    body = json.dumps(s3_event(BUCKET, [f"inbox/{name}"]))
    return {"messageId": "m", "eventSource": "aws:sqs", "body": body, "attributes": {}}


def test_ssh_that_refuses(cloud: Cloud) -> None:
    cloud.drop({"refused.jpeg": IMAGES[0]})
    cloud.sshd.stop()
    assert ask(cloud, "refused.jpeg") == {"inbox/refused.jpeg": "waiting"}
    assert cloud.queued()["delayed"] >= 1  # it comes again by itself
    cloud.sshd.start()
    assert ask(cloud, "refused.jpeg") == {"inbox/refused.jpeg": "classified"}


def test_a_host_with_another_key_gets_no_job(cloud: Cloud) -> None:
    place = cloud.host_place() + "ready.json"
    found = cloud.store.get(place, 10_000)
    assert found
    info, ready = found
    other = json.loads(ready) | {"host_key": "ssh-ed25519 " + "A" * 68}
    etag = cloud.store.put(place, json.dumps(other).encode(), info.etag)
    cloud.endpoint.cut()  # the Lambda has to connect anew
    cloud.drop({"impostor.jpeg": IMAGES[0]})
    accepted = cloud.sshd.process.output().count("Accepted")
    assert ask(cloud, "impostor.jpeg") == {"inbox/impostor.jpeg": "waiting"}
    assert cloud.sshd.process.output().count("Accepted") == accepted
    assert cloud.verdict("impostor.jpeg") is None
    assert '"HostFault":[1.0]' in cloud.lambdas["ingest"].process.output().replace(" ", "")
    cloud.store.put(place, ready, etag)
    assert ask(cloud, "impostor.jpeg") == {"inbox/impostor.jpeg": "classified"}


def test_a_stopped_host_is_started_by_the_next_upload(cloud: Cloud) -> None:
    instance = cloud.instance_id()
    cloud.ec2.stop_instances(InstanceIds=[instance])
    cloud.sshd.stop()
    cloud.drop({"stopped.jpeg": IMAGES[0]})
    assert ask(cloud, "stopped.jpeg") == {"inbox/stopped.jpeg": "waiting"}
    (found,) = cloud.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    assert found["Instances"][0]["State"]["Name"] == "running"
    cloud.sshd.start()
    assert ask(cloud, "stopped.jpeg") == {"inbox/stopped.jpeg": "classified"}


def test_a_function_that_is_killed_by_its_time(cloud: Cloud) -> None:
    """The messages remain when the time is over, and another invocation does the work."""
    assert cloud.worker
    hasty = cloud.make_lambda("ingest", seconds=2)
    cloud.worker.process.suspend()
    objects = {f"timeout/{n}.jpeg": data for n, data in enumerate(images(5))}
    cloud.drop(objects)
    with pytest.raises(InvocationFailed, match=r"[Tt]imed out|exited"):
        hasty.invoke({"Records": [_message(name) for name in objects]})
    hasty.stop()
    cloud.worker.process.resume()
    pumps = Pumps(cloud)
    wait_until_all_are_told(cloud, objects)
    pumps.stop()
    assert {verdict.status for verdict in cloud.verdicts("timeout/").values()} == {"classified"}


def test_two_workers_write_one_verdict(cloud: Cloud) -> None:
    """Two handlers get the same objects at the same moment."""
    other = cloud.make_lambda("ingest")
    objects = {f"race/{n}.jpeg": data + SLOW for n, data in enumerate(images(8))}
    cloud.drop(objects)
    event = {"Records": [_message(name) for name in objects]}
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda function: function.invoke(event), [cloud.lambdas["ingest"], other]))
    other.stop()
    assert all(len(answer["outcomes"]) == 8 for answer in answers)
    assert cloud.writes("race/") == dict.fromkeys(objects, 1)


def test_the_store_of_this_test_is_versioned(cloud: Cloud) -> None:
    """`writes` counts versions; without them it would always return one."""
    etag = cloud.store.put("outbox/x.json", b"1", None)
    cloud.store.put("outbox/x.json", b"2", etag)
    assert cloud.writes("x") == {"x": 2}


def test_no_message_is_left_behind(cloud: Cloud) -> None:
    """After all of the above, only duplicates may be queued, and they end."""
    pumps = Pumps(cloud)
    until(lambda: sum(cloud.queued().values()) == 0)
    pumps.stop()
