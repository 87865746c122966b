"""The warm worker: the network loaded once for each core, images judged side by side."""

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from model.serve.guarded import GuardedEngine
from pipeline.errors import InputRejected
from pipeline.judge import Judge
from pipeline.ports import Job, Outcome, Store
from pipeline.running.parallel import unordered
from pipeline.settings import Settings
from pipeline.verdict import ModelRef, Release

_AHEAD = 4  # times the threads: jobs that are taken before they can be begun
# Times the images that are judged at a time: threads that fetch and write. A bucket answers slowly, and an
# image that does not end keeps its thread until its deadline.
_FETCHING = 4


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


def make_worker(store: Store, settings: Settings, release: Release) -> Worker:
    """The worker that the settings ask for, its network loaded."""
    return Worker(*make_judge(store, settings, release))


def make_judge(
    store: Store, settings: Settings, release: Release, upgrades: bool = False
) -> tuple[Judge, int]:
    """The judge that the settings ask for, its network loaded, and how many threads it is to have."""
    engine = GuardedEngine.of(settings)
    try:
        engine.warm(settings.threads + 1)  # one in reserve: for when another is killed, or at a slow image
        assert engine.model  # loaded now, so that wrong weights are said at the start
        judge = Judge(store, engine, release, settings.max_bytes, upgrades)
    except BaseException:
        engine.close()
        raise
    return judge, settings.threads * _FETCHING


def check(settings: Settings) -> None:
    """See that a worker could work: decode and judge a picture. Raises whatever is wrong."""
    from PIL import Image

    picture = io.BytesIO()
    Image.linear_gradient("L").save(picture, "JPEG")
    with GuardedEngine.of(settings) as engine, suppress(InputRejected):  # it is judged: no chest X-ray
        engine.examine(picture.getvalue())
