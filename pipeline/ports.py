"""The ports: what the pipeline asks of a store, an index, an inference engine and a host.

The adapters stand beside this module (`folder`, `s3`, `sqlite`) and in `ec2_runner`, `model`; tests bring
fakes.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from pipeline.records import Examination, Job, ObjectInfo, Operations, Outcome, Row, SourceState, Ticket
from pipeline.verdict import ModelRef


class Store(Protocol):
    """S3's promises: whole objects, ETags, conditional writes. Raises StoreError."""

    bucket: str

    def head(self, key: str) -> ObjectInfo | None:
        """The object's description, or None."""

    def get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """The object with its bytes, or None; ObjectTooLarge, unread, when it has more than `limit` bytes."""

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        """Write if the object has the ETag `expected`, or is absent
        where that is None, and return the new ETag.

        Raises ConditionFailed when the object is in another state.
        """

    def delete(self, key: str) -> None:
        """Remove the object; absent is fine."""

    def purge(self, key: str) -> int:
        """Remove an object for good, every version of it; all of a folder when the key ends with a slash.

        Returns how much was removed.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a prefix, in no promised order."""


class ArchiveSource(Store, Protocol):
    """A store that can be an archive of X-rays, too large to be read twice."""

    def jobs(self, prefix: str) -> Iterator[Job]:
        """All that is to be judged under a prefix; with ETags where the listing itself has them."""


class FullStore(Store, Protocol):
    """A store that is kept in order: compared with its worklist, and rid of what is to be forgotten."""

    def names(self, prefix: str) -> Iterator[Job]:
        """All objects under a prefix, by name, none of them read; with ETags where the listing has them."""

    def holds(self, key: str) -> bool:
        """Return whether `purge` would find something to remove: a former version counts, too."""


class Tickets(Protocol):
    """A store that takes files straight from a browser. Raises StoreError."""

    @property
    def origin(self) -> str:
        """Scheme, host and port of every ticket's address."""

    def presign_post(self, key: str, max_bytes: int) -> Ticket:
        """Leave for a few minutes to write this object, of at most `max_bytes` bytes."""


class Engine(Protocol):
    """The CNN, ready to answer. Safe to call from several threads."""

    @property
    def model(self) -> ModelRef:
        """The network that judges."""

    def examine(self, data: bytes) -> Examination:
        """Judge the bytes of one image file; InputRejected when they cannot be judged.

        EngineFailed when it did not finish: it took too long, too much memory, or crashed.
        """

    def close(self) -> None:
        """End, and break off what is at work: `examine` then raises HostError."""


class Host(Protocol):
    """Where the engine runs."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """One outcome for each job, as they finish.

        HostError when the host breaks off, HostNotReady when there is none to ask yet; what was not
        answered by then has not been done.
        """

    def abandon(self) -> None:
        """Break off what is at work, and take no more; it counts as not done."""


class Monitor(Protocol):
    """Who can tell how host and queue are."""

    def look(self) -> Operations:
        """How they were when last looked at; never waits, never raises."""


class Queue(Protocol):
    """Brings inbox keys to `ingest` later. Raises StoreError."""

    def send(self, keys: Iterable[str], since: datetime, delay: float = 0) -> None:
        """Have these keys looked at after `delay` seconds.

        `since` is when they were first asked for; it comes back with them.
        """


class Index(Protocol):
    """The worklist: rows for the page, written by the handlers; the
    outbox is the truth, and can make it again.
    """

    def wait(self, keys: Iterable[str], since: datetime, at_work: bool = False) -> None:
        """Note that these keys have work before them, or that a host is at it.

        Their finished verdicts stay as they are.
        """

    def settle(self, key: str, since: datetime) -> None:
        """The work noted at `since` is over, and left the verdict as it was; a later note stays."""

    def record(self, row: Row) -> None:
        """Set what the verdict says; ends a wait for anything that the verdict has already seen."""

    def mark(self, key: str, source: SourceState) -> None:
        """Note whether the source is still there.

        Where there is neither source nor verdict, there is no row.
        """

    def remove(self, verdict_key: str) -> None:
        """Forget the verdict; its row goes too, unless it waits for another."""

    def verdict_keys(self) -> list[str]:
        """Where the verdicts of all rows stand."""

    def filling(self) -> AbstractContextManager[None]:
        """Say that what is written inside is all that there is: the worklist is whole afterwards."""

    def erase_traces(self) -> None:
        """Erase what is left of rows that are gone."""

    def get(self, key: str) -> Row | None:
        """The row of a key, or None."""

    def all(self) -> Iterator[Row]:
        """All rows, in no promised order."""
