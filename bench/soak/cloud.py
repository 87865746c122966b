"""Soak the path of a bucket: moto as AWS, the functions in Lambda's runtime, a host behind SSH."""

import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.soak.checker import Checked, check, holding
from bench.soak.load import PATIENT, Images, Load
from bench.soak.proxy import Proxy
from bench.soak.run import STOPPING, Fault, Soaked, alive, soak
from tests.support.cloud import BUCKET, HANDLERS, Cloud, Pump
from tests.support.machines import InvocationFailed, descendants, wait_for

_SECONDS = (0.2, 1.5)  # that a fault lasts
# Between two faults. A batch and the way to a host take seconds here: with less, nothing would be at work
# that a fault could harm.
_PAUSE_SECONDS = 1.0
_QUIET_SECONDS = 2400.0  # until everything is judged
_TWICE = 0.03  # share of batches that come twice
_TROUBLE = 0.4  # share of AWS's answers that fail, while they do


class _Inbox:
    """Upload objects as people and programs do."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def write(self, name: str, data: bytes) -> None:
        """Put an object."""
        self._s3.put_object(Bucket=BUCKET, Key=f"inbox/{name}", Body=data)

    def write_slowly(self, name: str, data: bytes) -> None:
        """Upload in one part, whose ETag is not the MD5 of the bytes."""
        where = {"Bucket": BUCKET, "Key": f"inbox/{name}"}
        where["UploadId"] = self._s3.create_multipart_upload(**where)["UploadId"]
        etag = self._s3.upload_part(**where, PartNumber=1, Body=data)["ETag"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        self._s3.complete_multipart_upload(**where, MultipartUpload=parts)

    def delete(self, name: str) -> None:
        """Delete an object."""
        self._s3.delete_object(Bucket=BUCKET, Key=f"inbox/{name}")


class _Bucket:
    """Read the objects of a bucket, for the checker."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3
        self._etags: dict[str, str] = {}
        self._versions = defaultdict[str, list[dict[str, Any]]](list)

    def keys(self, prefix: str) -> Iterator[str]:
        """Return all keys that begin with a prefix."""
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for item in page.get("Contents", ()):
                self._etags[item["Key"]] = item["ETag"].strip('"')
                yield item["Key"]

    def etag(self, key: str) -> str:
        """Return the ETag that the listing told."""
        return self._etags[key]

    def read(self, key: str, **version: str) -> bytes:
        """Return the bytes of an object."""
        return bytes(self._s3.get_object(Bucket=BUCKET, Key=key, **version)["Body"].read())

    def versions(self, key: str) -> Iterable[bytes]:
        """Return all contents that an object had, the last one at the end."""
        if not self._versions:  # listed once: moto looks through all objects each time
            for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
                for item in page.get("Versions", ()):
                    self._versions[item["Key"]].append(item)
        found = sorted(self._versions[key], key=lambda item: (item["IsLatest"], item["LastModified"]))
        return [self.read(key, VersionId=item["VersionId"]) for item in found]


class _Computers:
    """Play EC2's computers: what the stack launches, or starts again, boots."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._guard = cloud, threading.Lock()
        self._booted: str | None = None
        self._stopping = threading.Event()
        self.started = 0
        self.thread = threading.Thread(target=self._run, name="computers", daemon=True)

    def lose(self, how: Callable[..., object]) -> None:
        """Terminate or stop the computer that runs."""
        with self._guard:
            if self._booted is None:
                raise RuntimeError("none runs")
            how(InstanceIds=[self._booted])
            self._booted = None
            assert self._cloud.worker
            self._cloud.worker.stop()
            self._cloud.sshd.stop()

    def restart_sshd(self, pause: Callable[[], None]) -> None:
        """Stop the SSH server of the computer that runs, and start it again."""
        with self._guard:
            if self._booted is None:
                raise RuntimeError("none runs")
            self._cloud.sshd.stop()
            pause()
            self._cloud.sshd.start()

    def stop(self) -> None:
        """Boot nothing any more."""
        self._stopping.set()
        self.thread.join(60)

    def _run(self) -> None:
        while not self._stopping.wait(0.3):
            with self._guard:
                found = None if self._booted else self._running()
                if found:
                    if self.started:
                        self._cloud.sshd.start()
                    self._cloud.boot()
                    self._booted, self.started = found, self.started + 1

    def _running(self) -> str | None:
        """Return the instance in the lease, if it runs."""
        if (found := self._cloud.instance_id()) is None:
            return None
        (seen,) = self._cloud.ec2.describe_instances(InstanceIds=[found])["Reservations"]
        return found if seen["Instances"][0]["State"]["Name"] == "running" else None


def run(seconds: float, seed: int, rate: float, folder: Path) -> Soaked:
    """Soak the path for so many seconds; `rate` objects a second."""
    chance, proxies = random.Random(f"{seed} cloud"), list[Proxy]()

    def through(url: str) -> str:
        proxies.append(Proxy(url, random.Random(f"{seed} proxy")))
        return proxies[0].url

    images = Images(chance)
    cloud = Cloud(folder, through)
    unruly = random.Random(f"{seed} order")  # duplicates, and any order
    pumps: list[Pump] = []
    computers: _Computers | None = None
    processes: set[tuple[int, str]] = set()
    try:
        load = Load(_Inbox(cloud.client("s3")), images, chance, rate)
        queues = zip((cloud.jobs, cloud.told, cloud.dead), ("ingest", "record", "dead_letter"), strict=True)
        pumps += [Pump(cloud, queue, function, unruly, _TWICE) for queue, function in queues]
        cloud.drop({f"{PATIENT}.jpeg": images.xray()})
        computers = _Computers(cloud)
        computers.thread.start()
        deeds = _faults(cloud, computers, proxies[0], processes, random.Random(f"{seed} damage"))
        soaked = soak(load, deeds, seconds, _PAUSE_SECONDS, random.Random(f"{seed} faults"))
        soaked.settled, soaked.waiting = _settle(cloud)
        if not all(part.is_alive() for part in (computers.thread, *(pump.thread for pump in pumps))):
            raise RuntimeError("a stand-in for AWS has died: this run says nothing")
        assert cloud.worker
        processes |= alive(descendants(cloud.worker.process.pid))
        soaked.more["hosts started"] = computers.started
        soaked.more["requests that failed"] = proxies[0].failed
        soaked.more["invocations that failed"] = sum(len(pump.failures) for pump in pumps)
        found = check(_Bucket(cloud.client("s3")), held=load.held)
        _check_rows(found, cloud)
        _check_instances(found, cloud)
    finally:
        for part in (*([computers] if computers else []), *pumps, cloud, *proxies):
            part.stop()
    logs = [*folder.glob("lambda-*.log"), *folder.glob("worker*.log")]
    found.leaked += holding([PATIENT.encode(), b"Zaphod", b"1.2.77."], logs)
    with suppress(AssertionError):
        wait_for(lambda: not processes & alive([pid for pid, _ in processes]))
    found.leaked += [f"process {pid}" for pid, _ in processes & alive([pid for pid, _ in processes])]
    soaked.checked = found
    return soaked


def _faults(
    cloud: Cloud,
    computers: _Computers,
    proxy: Proxy,
    processes: set[tuple[int, str]],
    chance: random.Random,
) -> list[Fault]:
    def pause() -> None:
        time.sleep(chance.uniform(*_SECONDS))

    def of_worker(cause: Callable[[Any], None]) -> Callable[[], None]:
        def caused() -> None:
            assert cloud.worker
            processes.update(alive(descendants(cloud.worker.process.pid)))
            cause(cloud.worker)

        return caused

    def kill_worker(worker: Any) -> None:
        os.kill(worker.process.pid, signal.SIGKILL)

    def kill_judge(worker: Any) -> None:
        os.kill(chance.choice(descendants(worker.process.pid)), signal.SIGKILL)

    def halt_worker(worker: Any) -> None:
        halted = worker.process
        halted.suspend()
        pause()
        halted.resume()

    def trouble() -> None:
        proxy.trouble = _TROUBLE
        pause()
        proxy.trouble = 0.0

    def kill_function() -> None:
        name = chance.choice(HANDLERS)
        cloud.lambdas[name].stop()
        cloud.lambdas[name] = cloud.make_lambda(name)

    def refuse_tunnels() -> None:
        cloud.endpoint.cut()
        cloud.endpoint.status = chance.choice((403, 500, 503))
        pause()
        cloud.endpoint.status = None

    def lose_host() -> None:
        computers.lose(cloud.ec2.terminate_instances)

    def stop_host() -> None:
        computers.lose(cloud.ec2.stop_instances)

    return [
        Fault("AWS refusing, slow or cut off", 20, trouble),
        Fault("a judging process killed", 15, of_worker(kill_judge)),
        Fault("the worker killed", 8, of_worker(kill_worker)),
        Fault("the worker halted", 4, of_worker(halt_worker)),
        Fault("all tunnels cut", 15, cloud.endpoint.cut),
        Fault("tunnels refused", 3, refuse_tunnels),
        Fault("a function killed", 5, kill_function),
        Fault("the SSH server restarted", 3, lambda: computers.restart_sshd(pause)),
        # Rare, since the stack needs 20 to 80 seconds to have a host back.
        Fault("the host terminated", 0.5, lose_host),
        Fault("the host stopped", 0.5, stop_host),
    ]


def _settle(cloud: Cloud) -> tuple[float, str]:
    """Wait until the queues are empty, with what runs every quarter of an hour after the first two times."""
    began, left = time.monotonic(), "nothing looked at"
    for runs_after in (True, True, False):
        while left and time.monotonic() < began + _QUIET_SECONDS and not STOPPING.is_set():
            time.sleep(2)
            left = _queued(cloud)
        if runs_after:
            reconciler = cloud.make_lambda("reconcile")
            with suppress(InvocationFailed):
                reconciler.invoke({})
            reconciler.stop()
            left = left or "the end"
    return time.monotonic() - began, left


def _queued(cloud: Cloud) -> str:
    """Return how many messages there are, in words; empty when there are none."""
    found = {}
    for name, url in {"jobs": cloud.jobs, "verdicts": cloud.told, "dead letters": cloud.dead}.items():
        ends = ("", "NotVisible", "Delayed")
        names = [f"ApproximateNumberOfMessages{end}" for end in ends]
        counts = cloud.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        found[name] = sum(map(int, counts.values()))
    return ", ".join(f"{name} {count}" for name, count in found.items() if count)


def _check_rows(found: Checked, cloud: Cloud) -> None:
    """Compare the worklist with the outbox."""
    rows = cloud.rows()
    for info in cloud.store.list("inbox/"):
        row = rows.pop(info.key, None)
        if row is None:
            found.lost.append(f"row of {info.key}")
        elif row.etag != info.etag or row.waiting_since is not None:
            found.stale.append(f"row of {info.key}")
    left = [row for row in rows.values() if row.source != "deleted" or row.waiting_since]
    found.stale += [f"row of {row.key}, which was deleted" for row in left]


def _check_instances(found: Checked, cloud: Cloud) -> None:
    """Only the host in the lease may be left."""
    pages = cloud.ec2.describe_instances()["Reservations"]
    states = {one["InstanceId"]: one["State"]["Name"] for page in pages for one in page["Instances"]}
    left = [name for name, state in states.items() if state not in ("terminated", "shutting-down")]
    found.leaked += [f"instance {name}" for name in left if name != cloud.instance_id()]
