"""Keep a worker warm: the network is loaded once for each core, and images are judged in parallel."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline.judge import Judge
from pipeline.records import Job, Outcome
from pipeline.running.parallel import unordered
from pipeline.verdict import ModelRef

_AHEAD = 4  # jobs taken in advance, per thread


class Worker:
    """Judge jobs on this machine, in processes beside this one; implements `ports.Host`."""

    def __init__(self, judge: Judge, threads: int) -> None:
        self._judge, self._limit = judge, _AHEAD * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cxr-worker")

    @property
    def model(self) -> ModelRef:
        """Return the network that it runs."""
        return self._judge.engine.model

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Yield one outcome for each job, in the order in which they finish.

        Jobs that have not begun are dropped when the caller stops iterating.
        """
        yield from unordered(self._pool, self._judge.judge, jobs, self._limit)

    def abandon(self) -> None:
        """Abort work in progress, and take no more; see `ports.Host`."""
        self._judge.engine.close()
        self._pool.shutdown(cancel_futures=True)
