"""Implement the ports in memory."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from pipeline.errors import ConditionFailed, EngineFailed, InputRejected, ObjectTooLarge
from pipeline.intake import Ports
from pipeline.judge import Judge
from pipeline.records import Examination, ImageFacts, Job, ObjectInfo, Outcome
from pipeline.verdict import DOUBTS, ActivationMap, Finding, ModelRef, Release, Thresholds, Warning
from pipeline.worklist.sqlite import SqliteIndex

SAMPLES = Path(__file__).parents[2] / "events" / "samples"
XRAYS = sorted(SAMPLES.glob("*.jpeg"))
LIMIT = 1_000_000


class MemoryStore:
    """Keep objects in a dictionary, with the promises of S3."""

    bucket = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def head(self, key: str) -> ObjectInfo | None:
        data = self.objects.get(key)
        return None if data is None else _info(key, data)

    def get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        data = self.objects.get(key)
        if data is None:
            return None
        if len(data) > limit:
            raise ObjectTooLarge(_info(key, data))
        return _info(key, data), data

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        now = self.objects.get(key)
        if (None if now is None else _info(key, now).etag) != expected:
            raise ConditionFailed("another state")
        self.objects[key] = data
        return _info(key, data).etag

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes(), None)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def names(self, prefix: str, after: str = "") -> Iterator[Job]:
        return (Job(info.key) for info in self.list(prefix, after))

    def holds(self, key: str) -> bool:
        return any(one == key or (key.endswith("/") and one.startswith(key)) for one in self.objects)

    def purge(self, key: str) -> int:
        found = [one for one in self.objects if one == key or (key.endswith("/") and one.startswith(key))]
        for one in found:
            del self.objects[one]
        return len(found)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        for key, data in sorted(self.objects.items()):
            if key.startswith(prefix) and key > after:
                yield _info(key, data)


class FakeEngine:
    """Answer at once.

    P is 1 for data that begins with `P`; `bad` is the input's fault, `boom` a defect of ours, and `hang`
    takes too long. Names of warnings in the data become its warnings.
    """

    model = ModelRef(name="fake", version="1", sha256="0" * 64, engine="fake")

    def __init__(self) -> None:
        self.examined = 0

    def examine(self, data: bytes) -> Examination:
        self.examined += 1
        facts = ImageFacts("image/jpeg", 100, 80)
        if data == b"bad":
            raise InputRejected("unreadable", "It is damaged. Export it again.", facts)
        if data == b"boom":
            raise RuntimeError("a defect")
        if data.startswith(b"hang"):
            raise EngineFailed("took_too_long", "The X-ray was not judged within 20 seconds.")
        probability = 1.0 if data.startswith(b"P") else 0.0
        thresholds = Thresholds(normal_below=0.4, pneumonia_above=0.6)
        warnings: tuple[Warning, ...] = tuple(word for word in get_args(Warning) if word.encode() in data)
        finding = Finding(
            label="uncertain" if set(warnings) & set(DOUBTS) else thresholds.label(probability),
            probability=probability,
            prevalence=0.5,
            thresholds=thresholds,
            map=ActivationMap(grid=[[0.0]], box=(0, 0, 1, 1)),
        )
        preview = None if "burned_in_text" in warnings else b"preview of " + data
        return Examination(facts, finding, preview, warnings, {"decode": 1, "infer": 2})

    def close(self) -> None:
        pass


class InlineHost:
    """Judge the jobs one after the other."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        yield from map(self.judge.judge, jobs)

    def abandon(self) -> None:
        pass


class SentJobs:
    """Keep everything that is sent to the queue; nothing waits there."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        self.keys += (job.key for job in jobs)

    def has_later(self, job: Job) -> bool:
        return False

    def hasten(self, receipts: Mapping[str, float]) -> None:
        assert not receipts

    def oldest_sent(self, now: datetime) -> datetime | None:
        return None


def make_judge(store: MemoryStore, release: int = 1) -> Judge:
    return Judge(store, FakeEngine(), Release(number=release, version="test"), LIMIT)


def make_ports(folder: Path, store: MemoryStore | None = None) -> Ports:
    """Make the handlers' ports in memory; the worklist is real SQLite in `folder`."""
    store = store or MemoryStore()
    judge = make_judge(store)
    return Ports(store, SqliteIndex(folder / "index.sqlite"), InlineHost(judge), judge.release, "secret")


def store_of(ports: Ports) -> MemoryStore:
    """Return the store of `make_ports`."""
    assert isinstance(ports.store, MemoryStore)
    return ports.store


def _info(key: str, data: bytes) -> ObjectInfo:
    return ObjectInfo(key, hashlib.md5(data).hexdigest(), len(data), datetime.now(UTC))
