"""The warm worker: the network loaded once for each core, images judged side by side."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline.judge import Judge
from pipeline.records import Job, Outcome
from pipeline.running.parallel import unordered
from pipeline.verdict import ModelRef

_AHEAD = 4  # times the threads: jobs that are taken before they can be begun


class Worker:
    """A host in this process, whose images are judged in processes beside it."""

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

    def abandon(self) -> None:
        """Break off what is at work, and take no more; see `ports.Host`."""
        self._judge.engine.close()
        self._pool.shutdown(cancel_futures=True)
