"""Judge an archive on all the cores of a Ray cluster: `cxr backfill --engine ray`.

One task lists the archive. Actors, each with its own network and store, take a few names at a time, judge
the images and write the verdicts themselves; only one line per image comes back. Ray Data streams them. If
a worker dies, Ray Data gives its names to another, which skips the images that were already judged.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import islice
from typing import Any

import pyarrow
import ray
import ray.data
import ray.exceptions

from cxr.archive import absolute, make_backfill, open_archive
from pipeline.backfill import Done
from pipeline.errors import HostError, UsageError
from pipeline.records import Job
from pipeline.running.logs import start_logging
from pipeline.settings import Settings

_BATCH = 32  # images per batch, the unit of work of an actor
_OBJECTS = 80_000_000  # bytes of Ray's object store on this machine: names and answers are small
_OTHERS = ("key", "probability")
_TEXTS = [(field.name, pyarrow.string()) for field in fields(Done) if field.name not in _OTHERS]
# One row holds a batch, so that Ray does not split it. Names are bytes: some are not valid Unicode.
_JOB = pyarrow.struct([("key", pyarrow.binary()), ("etag", pyarrow.string())])
_DONE = pyarrow.struct([("key", pyarrow.binary()), *_TEXTS, ("probability", pyarrow.float64())])
_JOBS = pyarrow.schema([("batch", pyarrow.list_(_JOB))])
_ANSWERS = pyarrow.schema([("batch", pyarrow.list_(_DONE))])


def backfill_with_ray(
    source: str, outbox: str, settings: Settings, workers: int | None, address: str | None
) -> Iterator[Done]:
    """Judge an archive with a number of workers, one core each; the default is one worker per core.

    Raises UsageError if there is no such cluster, and HostError if Ray gives up.
    """
    source, outbox = absolute(source), absolute(outbox)  # a worker may run in another folder
    if settings.weights:
        settings = settings.model_copy(update={"weights": settings.weights.resolve()})
    # An error that every worker would meet is reported here, once and in a sentence.
    make_backfill(source, outbox, settings).close()
    with _cluster(workers, address):
        size = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        try:
            for table in _answers(source, outbox, settings, size):
                yield from map(_done, _rows(table))
        except ray.exceptions.RayError as error:
            reason = f"Ray gave up ({type(error).__name__}): see its logs"
            raise HostError(f"{reason}, then run the same command again to continue") from error


@contextmanager
def _cluster(workers: int | None, address: str | None) -> Iterator[None]:
    """Join a cluster, or start one on this machine; leave or stop it at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    here = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _OBJECTS}
    where = {"address": address} if address else {"address": "local", **here}
    try:
        ray.init(**where, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError) as error:
        raise UsageError(f"there is no Ray cluster at {address}: start it, or omit --address") from error
    try:
        yield
    finally:
        ray.shutdown()


def _answers(source: str, outbox: str, settings: Settings, workers: int) -> Iterator[Any]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # one row per block; otherwise many batches go to one worker
    listed = ray.data.from_items([{"source": source, "outbox": outbox}]).map_batches(
        _list, num_cpus=0, batch_size=None, batch_format="pyarrow"
    )
    judged = listed.map_batches(
        _Worker,
        fn_constructor_args=(source, outbox, settings.model_copy(update={"threads": 1})),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        batch_size=None,
        batch_format="pyarrow",
    )
    return iter(judged.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def _list(addresses: Any) -> Iterator[Any]:
    """Yield the names in the archive, one batch at a time."""
    (archive,) = addresses.to_pylist()
    jobs = open_archive(**archive).jobs()
    while names := list(islice(jobs, _BATCH)):
        rows = [{"key": os.fsencode(job.key), "etag": job.etag} for job in names]
        yield pyarrow.table([[rows]], schema=_JOBS)


class _Worker:
    """Judge batches as a Ray actor, with its own network and store, on one core. Ray replaces a dead one."""

    def __init__(self, source: str, outbox: str, settings: Settings) -> None:
        start_logging(settings.log_level)
        self._backfill = make_backfill(source, outbox, settings)

    def __call__(self, names: Any) -> Any:
        """Judge a batch and return its outcomes."""
        jobs = (Job(os.fsdecode(row["key"]), row["etag"]) for row in _rows(names))
        rows = [{**asdict(done), "key": os.fsencode(done.key)} for done in self._backfill.run(jobs)]
        return pyarrow.table([[rows]], schema=_ANSWERS)


def _rows(table: Any) -> list[dict[str, Any]]:
    return [row for batch in table["batch"].to_pylist() for row in batch]


def _done(row: dict[str, Any]) -> Done:
    return Done(**{**row, "key": os.fsdecode(row["key"])})
