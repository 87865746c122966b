"""Define the ports: what the pipeline needs from a store, an index, an inference engine and a host.

The adapters are in `pipeline/store`, `pipeline/worklist`, `pipeline/aws`, `ec2_runner` and `model`; tests
bring fakes.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pipeline.records import (
    DicomObject,
    Examination,
    Job,
    ObjectInfo,
    Operations,
    Outcome,
    Reviewed,
    Row,
    SourceState,
    Ticket,
)
from pipeline.verdict import ModelRef


class Store(Protocol):
    """Keep objects as S3 promises to: whole objects, ETags, conditional writes. Raises StoreError."""

    bucket: str

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's description, or None."""

    def get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """Return the object with its bytes, or None.

        Raises ObjectTooLarge, without reading it, when the object has more than `limit` bytes.
        """

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        """Write the object if its ETag is `expected`, or, with None, if it does not exist.

        Returns the new ETag; raises ConditionFailed when the object is in another state.
        """

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""

    def purge(self, key: str) -> int:
        """Remove every version of an object, or of a whole folder when the key ends with a slash.

        Returns how much was removed.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects under a prefix, in no particular order."""


class Landing(Store, Protocol):
    """Extend a store so that it takes finished files, for good."""

    def put_file(self, key: str, path: Path) -> None:
        """Write a file as a new object, which survives a power cut from then on; the file may be moved.

        Raises ConditionFailed when the object exists.
        """


class ArchiveSource(Store, Protocol):
    """Extend a store to serve as an archive of X-rays that is too large to read twice."""

    def jobs(self, prefix: str) -> Iterator[Job]:
        """Yield the jobs under a prefix, with ETags where the listing has them."""


class FullStore(Landing, Protocol):
    """Extend a store so that it can be compared with its worklist, and X-rays erased from it."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects under a prefix; with `after`, those with greater keys; S3 sorts them."""

    def names(self, prefix: str, after: str = "") -> Iterator[Job]:
        """Yield the names of the same objects, unread; with ETags where the listing has them."""

    def holds(self, key: str) -> bool:
        """Return whether `purge` would find something to remove; former versions count, too."""


class Tickets(Protocol):
    """Let browsers upload files straight into a store. Raises StoreError."""

    @property
    def origin(self) -> str:
        """Return the scheme, host and port of every ticket's address."""

    def presign_post(self, key: str, max_bytes: int) -> Ticket:
        """Return the permission, for a few minutes, to write this object of at most `max_bytes` bytes."""


class InferenceEngine(Protocol):
    """Run the CNN; several threads may call it."""

    @property
    def model(self) -> ModelRef:
        """Return the network that judges."""

    def examine(self, data: bytes) -> Examination:
        """Judge the bytes of one image file; raise InputRejected when they cannot be judged.

        Raises EngineFailed when it did not finish: it took too long, too much memory, or crashed.
        """

    def close(self) -> None:
        """Stop, and abort work in progress: `examine` then raises HostError."""


class Results(Protocol):
    """Make the DICOM objects of a verdict, for the study of its X-ray."""

    def make(self, key: str, etag: str | None = None) -> list[DicomObject]:
        """Return the report, and the capture where there is a map; raise NoResult where there can be none.

        With the ETag of a verdict, another verdict raises ResultOutdated.
        """


class Host(Protocol):
    """Judge jobs where the engine runs."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Return an iterator over one outcome for each job, in the order in which they finish.

        Raises HostNotReady at once when no host is ready; otherwise the jobs begin when the first outcome is
        asked for. Then HostError says that the host broke off, HostNotReady that it takes no jobs now;
        unanswered jobs were not done.
        """

    def abandon(self) -> None:
        """Abort work in progress, which counts as not done, and take no more."""


class Monitor(Protocol):
    """Report the state of host and queue."""

    def look(self) -> Operations:
        """Return their last known state; never waits, never raises."""


class Queue(Protocol):
    """Bring jobs to `ingest` later. Raises StoreError."""

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        """Deliver these jobs after `delay` seconds, with their `since`, `tries` and `queued_at`.

        Raises NotQueued for those that it did not take.
        """

    def has_later(self, job: Job) -> bool:
        """Return whether this process sent a later job of the same key, so that this one is not needed."""

    def hasten(self, receipts: Mapping[str, float]) -> None:
        """Deliver messages again after so many seconds, by their receipts; never raises."""

    def oldest_sent(self, now: datetime) -> datetime | None:
        """Return a time before which nothing was sent that still waits; None where nothing waits at all."""


class Announcer(Protocol):
    """Tell others of new verdicts. Raises StoreError."""

    def tell_of(self, verdict_key: str) -> None:
        """Tell of the verdict at an outbox key, if there is one; it may be told again."""


class Index(Protocol):
    """Keep the worklist: rows for the page, written by the handlers; the outbox is enough to rebuild it."""

    def wait(self, keys: Iterable[str], since: datetime, at_work: bool = False) -> None:
        """Note that these keys wait to be judged, or that a host works on them.

        Their finished verdicts stay as they are.
        """

    def settle(self, key: str, since: datetime) -> None:
        """End the wait noted at `since`, which left the verdict unchanged; a later note stays."""

    def record(self, row: Row) -> None:
        """Store the content of a verdict; end any wait that began before it."""

    def review(self, key: str, found: Reviewed) -> None:
        """Store the summary of the reviews of a verdict, if the key has a row with one."""

    def mark(self, key: str, source: SourceState) -> None:
        """Note whether the source still exists.

        Where there is neither source nor verdict, there is no row.
        """

    def remove(self, verdict_key: str) -> None:
        """Remove the verdict; its row goes too, unless it waits for another."""

    def verdict_keys(self) -> list[str]:
        """Return the verdict keys of all rows."""

    def filling(self) -> AbstractContextManager[None]:
        """Mark the worklist as complete after the `with` block, in which all rows are written."""

    def erase_traces(self) -> None:
        """Erase what is left of deleted rows."""

    def get(self, key: str) -> Row | None:
        """Return the row of a key, or None."""

    def all(self) -> Iterator[Row]:
        """Yield all rows, in no particular order."""

    def part(self, after: str, end: str) -> Iterator[Row]:
        """Yield the rows after the key `after`, up to `end`; an empty key sets no bound.

        Without `after`, the rows of verdicts with hashed names come, too.
        """
