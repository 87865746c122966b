"""The ports: what the pipeline asks of a store, an index, an inference engine and a host.

The adapters stand beside this module (`folder`, `s3`, `sqlite`) and in `ec2_runner`, `model`; tests bring
fakes.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from pipeline.verdict import Finding, Label, ModelRef, ReasonCode, Release, Status, Warning

Result = Literal["classified", "rejected", "current", "gone", "waiting", "failed", "given_up"]
SourceState = Literal["present", "deleted"]
State = Literal[
    "waiting", "working", "pneumonia", "uncertain", "normal", "rejected", "failed", "unknown"
]  # of a row, in one word
HostState = Literal["off", "starting", "ready", "busy", "stopping", "unknown"]


@dataclass(frozen=True)
class Job:
    """Look at this inbox key. A hint: the worker judges the object as it is when it gets there."""

    key: str
    etag: str | None = None  # as a listing had it: saves asking for it where that object has its verdict


@dataclass(frozen=True)
class Outcome:
    """What became of a job. `failed` is worth another try; `gone` means that there is no such object now;
    `waiting` that no host could be asked, and that the queue brings the job again; `given_up` that its
    verdict says `failed`.
    """

    key: str
    result: Result
    detail: str = ""  # a sentence about a failure; never the key
    passes: bool = False  # it failed for a reason that passes and is not the image's: that was no try


@dataclass(frozen=True)
class ObjectInfo:
    """An object of the store, as S3 describes it."""

    key: str
    etag: str
    size: int  # bytes
    modified: datetime
    version_id: str | None = None


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


@dataclass(frozen=True)
class Ticket:
    """Leave to write one object: a browser posts these fields, and the file after them, to `url`."""

    url: str
    fields: dict[str, str]


class Tickets(Protocol):
    """A store that takes files straight from a browser. Raises StoreError."""

    @property
    def origin(self) -> str:
        """Scheme, host and port of every ticket's address."""

    def presign_post(self, key: str, max_bytes: int) -> Ticket:
        """Leave for a few minutes to write this object, of at most `max_bytes` bytes."""


@dataclass(frozen=True)
class ImageFacts:
    """What an image file is, whatever becomes of it."""

    media_type: str
    width: int
    height: int
    instance_uid: str | None = None  # of a DICOM file, where it may be kept


@dataclass(frozen=True)
class Examination:
    """What the engine says of one image."""

    facts: ImageFacts
    finding: Finding
    preview: bytes | None  # JPEG, 8-bit gray, at most 1280 pixels a side; None where it may name the patient
    warnings: tuple[Warning, ...] = ()  # in the order of their closed list
    timing_ms: dict[str, float] = field(default_factory=dict)  # decode, infer


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


@dataclass(frozen=True)
class HostStatus:
    """How the host is. No key is in its sentences."""

    state: HostState
    since: datetime | None = None  # when it got into that state, where that is known
    active: int = 0  # jobs taken and not yet answered
    jobs_a_minute: int = 0
    model: ModelRef | None = None
    release: Release | None = None
    last_error: str | None = None  # of a job that failed
    last_error_at: datetime | None = None
    detail: str = ""  # why the state is unknown


@dataclass(frozen=True)
class QueueStatus:
    """How much is still to be done."""

    depth: int | None  # jobs not done yet, those at work among them; None: unknown
    oldest: datetime | None = None  # when the job that waits longest was first asked for, where that is known
    detail: str = ""  # why the depth is unknown


@dataclass(frozen=True)
class Operations:
    """Host and queue as they were at a moment."""

    host: HostStatus
    queue: QueueStatus
    at: datetime


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


@dataclass(frozen=True)
class Row:
    """A line of the worklist: what the index knows of one inbox key."""

    key: str
    status: Status | None = None  # None: no verdict yet
    label: Label | None = None
    probability: float | None = None
    normal_below: float | None = None  # the verdict's two thresholds
    pneumonia_above: float | None = None
    reason: ReasonCode | None = None
    message: str | None = None  # the reason's own sentence
    warnings: tuple[Warning, ...] = ()
    etag: str | None = None  # of the source that the verdict judged
    verdict_key: str | None = None
    verdict_etag: str | None = None
    preview_key: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    waiting_since: datetime | None = None  # set while a newer hint has not been followed to its end
    asked_since: datetime | None = None  # while it waits: when it began to, through all later hints
    at_work: bool = False  # while it waits: a host has it
    source: SourceState = "present"
    change: int = 0  # grows with every change of any row

    @property
    def state(self) -> State:
        """The row in one word: one that waits for a newer verdict waits, whatever the last one said."""
        if self.waiting_since:
            return "working" if self.at_work else "waiting"
        return self.label or (self.status if self.status and self.status != "classified" else "unknown")


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
