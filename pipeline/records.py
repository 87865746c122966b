"""Define the records that the ports take and return."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pipeline.verdict import Finding, Label, ModelRef, ReasonCode, Release, Status, Warning

JobResult = Literal["classified", "rejected", "current", "gone", "waiting", "failed", "given_up"]
SourceState = Literal["present", "deleted"]
# The state of a row in one word.
RowState = Literal["waiting", "working", "pneumonia", "uncertain", "normal", "rejected", "failed", "unknown"]
# What a reader sees in an X-ray, and whether that is what the verdict says: with `decided` the network made
# no call and the reader did; `withdrawn` takes the reader's earlier answer back.
Sees = Literal["pneumonia", "not_pneumonia", "unsure"]
Answer = Literal["agree", "disagree", "decided", "unsure", "withdrawn"]
# The reviews of a verdict in one word; `mixed` where readers differ.
ReviewState = Literal["unread", "agreed", "disagreed", "decided", "unsure", "mixed"]
HostState = Literal["off", "starting", "ready", "busy", "stopping", "unknown"]


@dataclass(frozen=True)
class Job:
    """Ask to look at this inbox key. A hint: the worker judges the object as it is when it gets there."""

    key: str
    etag: str | None = None  # from a listing; saves a request where that object has its verdict
    since: datetime | None = None  # since when it waits for a host; None where none was asked for it yet
    tries: int = 0  # how often a host had it and did not answer; a job with tries is tried alone
    queued_at: datetime | None = None  # when `ingest` sent it to the queue; None where somebody else did


@dataclass(frozen=True)
class Outcome:
    """Report the result of a job.

    `failed` is worth another try; `gone` means that the object no longer exists; `waiting` that no host was
    ready, or had no time left, and that the queue brings the job again; `given_up` that its verdict says
    `failed`.
    """

    key: str
    result: JobResult
    detail: str = ""  # a sentence about a failure; never the key
    passes: bool = False  # the failure passes and is not the image's fault: it does not count as a try


@dataclass(frozen=True)
class ObjectInfo:
    """Describe an object of the store, as S3 does."""

    key: str
    etag: str
    size: int  # bytes
    modified: datetime
    version_id: str | None = None


@dataclass(frozen=True)
class Ticket:
    """Permit writing one object: a browser posts these fields, and the file after them, to `url`."""

    url: str
    fields: dict[str, str]


@dataclass(frozen=True)
class DicomObject:
    """Hold a DICOM file that was made of a verdict; it names the patient, as its source does."""

    kind: Literal["report", "capture"]
    uid: str  # SOP Instance UID
    data: bytes


@dataclass(frozen=True)
class ImageFacts:
    """Describe an image file, whether or not it is judged."""

    media_type: str
    width: int
    height: int
    instance_uid: str | None = None  # only of a DICOM file, where it may be kept
    brightness: float | None = None  # mean of the greys that the network saw, 0 to 255
    contrast: float | None = None  # their standard deviation


@dataclass(frozen=True)
class Examination:
    """Hold the engine's answer for one image."""

    facts: ImageFacts
    finding: Finding
    preview: bytes | None  # 8-bit gray JPEG, at most 1280 pixels a side; None if it may name the patient
    warnings: tuple[Warning, ...] = ()  # in the order of their closed list
    timing_ms: dict[str, float] = field(default_factory=dict)  # decode, infer


@dataclass(frozen=True)
class HostStatus:
    """Describe the state of the host, or of all hosts together; no sentence holds a key."""

    state: HostState
    since: datetime | None = None  # when it entered that state, if known
    active: int = 0  # jobs taken and not yet answered
    jobs_a_minute: int = 0
    model: ModelRef | None = None
    release: Release | None = None
    last_error: str | None = None  # message of a job that failed
    last_error_at: datetime | None = None
    detail: str = ""  # why the state is unknown
    hosts: int = 1  # how many are not off


@dataclass(frozen=True)
class QueueStatus:
    """Describe how much work is left."""

    depth: int | None  # jobs not done yet, including those at work; None if unknown
    oldest: datetime | None = None  # when the longest-waiting job was first asked for, if known
    detail: str = ""  # why the depth is unknown


@dataclass(frozen=True)
class Operations:
    """Describe host and queue at one moment."""

    host: HostStatus
    queue: QueueStatus
    at: datetime


@dataclass(frozen=True)
class Reading:
    """Hold the last answer of one reader about one verdict; without users, everybody is one reader."""

    user: str | None
    answer: Answer
    sees: Sees | None  # None: withdrawn
    at: datetime


@dataclass(frozen=True)
class Reviewed:
    """Summarise the reviews of one verdict, as the worklist keeps them."""

    review_of: str | None = None  # ETag of the verdict
    review_said: ReviewState | None = None
    readers: tuple[Reading, ...] = ()  # the latest first
    review_count: int = 0  # objects in the outbox


@dataclass(frozen=True)
class Row:
    """Hold a line of the worklist: everything that the index knows about one inbox key."""

    key: str
    status: Status | None = None  # None: no verdict yet
    label: Label | None = None
    probability: float | None = None
    normal_below: float | None = None  # the verdict's two thresholds
    pneumonia_above: float | None = None
    reason: ReasonCode | None = None
    message: str | None = None  # the reason's message
    warnings: tuple[Warning, ...] = ()
    etag: str | None = None  # the judged source's
    verdict_key: str | None = None
    verdict_etag: str | None = None
    preview_key: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    model: str | None = None  # SHA-256 of the network's file
    typicality: float | None = None  # distance from the training images, as a share of the verdict's limit
    aspect: float | None = None  # width of the image divided by its height
    brightness: float | None = None  # see `ImageFacts`
    contrast: float | None = None
    waiting_since: datetime | None = None  # set while a newer hint is not settled
    asked_since: datetime | None = None  # start of the wait, through all later hints
    at_work: bool = False  # a host works on it
    source: SourceState = "present"
    review_of: str | None = None  # these four are those of `Reviewed`, perhaps of an earlier verdict
    review_said: ReviewState | None = None
    readers: tuple[Reading, ...] = ()
    review_count: int = 0
    change: int = 0  # grows with every change of any row

    @property
    def state(self) -> RowState:
        """Return the row's state in one word; waiting for a newer verdict overrides the last one."""
        if self.waiting_since:
            return "working" if self.at_work else "waiting"
        return self.label or (self.status if self.status and self.status != "classified" else "unknown")

    @property
    def review(self) -> ReviewState | None:
        """Return what readers said about this verdict, in one word; None where it makes no finding."""
        if self.label is None:
            return None
        return (self.review_said if self.review_of == self.verdict_etag else None) or "unread"

    @property
    def answers(self) -> tuple[Reading, ...]:
        """Return the last answer of each reader about this verdict, also where it was withdrawn."""
        return self.readers if self.label and self.review_of == self.verdict_etag else ()

    @property
    def reviewers(self) -> list[str]:
        """Return the names of those whose answers stand."""
        return [one.user or "" for one in self.answers if one.answer != "withdrawn"]
