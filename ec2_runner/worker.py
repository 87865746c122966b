"""The warm worker: the network loaded once, images judged side by side."""

import io
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from PIL import Image

from model.engine import Engine
from pipeline.errors import InputRejected
from pipeline.judge import Judge
from pipeline.parallel import unordered
from pipeline.ports import Engine as EnginePort
from pipeline.ports import Examination, Job, Outcome, Store
from pipeline.settings import Settings
from pipeline.verdict import ModelRef, Release

_AHEAD = 4  # times the threads: jobs that are taken before they can be begun
_FETCHING = 4  # times the threads that decode: a bucket answers slowly, and many at a time


class Worker:
    """A host in this process. Decoding and inference leave Python's lock, so threads use all the cores."""

    def __init__(self, judge: Judge, threads: int) -> None:
        self._judge, self._limit = judge, _AHEAD * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cxr-worker")

    @property
    def model(self) -> ModelRef:
        """The network that it holds."""
        return self._judge.engine.model

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """One outcome for each job, as they finish; those not begun yet are dropped when nobody asks on."""
        yield from unordered(self._pool, self._judge.judge, jobs, self._limit)


def make_worker(store: Store, settings: Settings, release: Release) -> Worker:
    """The worker that the settings ask for, its network loaded."""
    return Worker(*make_judge(store, settings, release, settings.store == "s3"))


def make_judge(
    store: Store, settings: Settings, release: Release, is_remote: bool, upgrades: bool = False
) -> tuple[Judge, int]:
    """The judge that the settings ask for, its network loaded, and how many threads it is to have."""
    engine: EnginePort = Engine.of(settings)
    threads = settings.threads
    if is_remote:
        engine, threads = _Bounded(engine, threads), threads * _FETCHING
    return Judge(store, engine, release, settings.max_bytes, upgrades), threads


def check(settings: Settings) -> None:
    """See that a worker could work: decode and judge a picture. Raises whatever is wrong."""
    picture = io.BytesIO()
    Image.linear_gradient("L").save(picture, "JPEG")
    with suppress(InputRejected):  # the network has judged it: no chest X-ray
        Engine.of(settings).examine(picture.getvalue())


class _Bounded:
    """An engine that judges a few images at a time, whatever the number of threads that fetch them."""

    def __init__(self, engine: EnginePort, limit: int) -> None:
        self.model, self._engine, self._turns = engine.model, engine, threading.Semaphore(limit)

    def examine(self, data: bytes) -> Examination:
        with self._turns:
            return self._engine.examine(data)
