"""The warm worker: the network loaded once, images judged side by side."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

from model.engine import Engine
from pipeline.judge import Judge
from pipeline.ports import Job, Outcome, Store
from pipeline.settings import Settings
from pipeline.verdict import Release


class Worker:
    """A host in this process. Decoding and inference leave Python's lock, so threads use all the cores."""

    def __init__(self, judge: Judge, threads: int) -> None:
        self._judge = judge
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cxr-worker")

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """One outcome for each job, as they finish."""
        futures = [self._pool.submit(self._judge.judge, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()


def make_worker(store: Store, settings: Settings, release: Release) -> Worker:
    """The worker that the settings ask for, its network loaded."""
    engine = Engine.of(settings)
    return Worker(Judge(store, engine, release, settings.max_bytes), settings.threads)
