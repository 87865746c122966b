"""Model the requests and answers of the interface for programs; `web.openapi` describes them."""

from datetime import date, datetime

from pydantic import BaseModel, Field

from pipeline.records import Operations, ReviewState, RowState, SourceState
from pipeline.reviews.review import Note, Review, Said
from pipeline.statistics.reader import DriftReport, PeriodName
from pipeline.verdict import Label, ReasonCode, Status, Verdict, Warning


class WorklistItem(BaseModel):
    """One X-ray in the worklist."""

    key: str
    state: RowState = Field(description="the row in one word: what it waits for, or what its verdict says")
    status: Status | None = Field(None, description="of the last verdict; null before the first")
    label: Label | None = None
    probability: float | None = Field(
        None,
        description="calibrated P(pneumonia); meaningless where a warning makes the label `uncertain`",
    )
    normal_below: float | None = None
    pneumonia_above: float | None = None
    reason: ReasonCode | None = None
    message: str | None = Field(None, description="the reason as a sentence, from the verdict")
    warnings: list[Warning] = []
    etag: str | None = Field(None, description="of the file that the verdict judged")
    started_at: datetime | None = None
    finished_at: datetime | None = None
    asked_since: datetime | None = Field(None, description="since when it waits to be judged, if it does")
    verdict_etag: str | None = Field(None, description="of the verdict, for a review of it")
    source: SourceState = Field("present", description="whether the file is still in the inbox")
    review: ReviewState | None = Field(
        None, description="what readers said about this verdict; null where it has no finding"
    )
    reviewers: list[str] = Field([], description="the readers; an empty name where the page knows no users")
    url: str = Field(description="of this X-ray with its whole verdict, for programs")
    page: str = Field(description="of this X-ray, for people")
    preview: str | None = None


class WorklistItems(BaseModel):
    """One page of the worklist."""

    items: list[WorklistItem]
    before: str | None = Field(None, description="cursor of the previous page; null on the first page")
    after: str | None = Field(None, description="cursor of the next page; null on the last page")


class ItemWithVerdict(BaseModel):
    """One X-ray and its verdict as stored in the outbox."""

    item: WorklistItem
    verdict: Verdict | None = Field(None, description="null before the first, or where it cannot be read")


class Figures(BaseModel):
    """The number of X-rays in each state, and the state of the host and its queue."""

    total: int
    states: dict[RowState, int]
    reviews: dict[ReviewState, int]
    operations: Operations | None = Field(None, description="null where the page knows no host")


class SpanFigures(BaseModel):
    """Count what was judged in a day, a month or longer; a replaced X-ray counts with its last verdict."""

    begins: date
    verdicts: int
    answers: dict[str, int] = Field(description="verdicts by label, or `rejected` or `failed`")
    reasons: dict[str, int] = Field(description="verdicts without a finding, by the reason's code")
    warnings: dict[str, int]
    uncertain: float | None = Field(description="share of the verdicts with a label")
    no_call: float | None = Field(description="share of these for which the network makes no call")
    mean_probability: float | None = Field(description="mean of P where the network makes a call")
    reviews: dict[str, int] = Field(description="verdicts with a label, by what readers said about them")
    agreement: float | None = Field(
        description="share of the verdicts that readers agreed with, among those that they agreed or "
        "disagreed with, or differ about"
    )


class StatisticsFigures(BaseModel):
    """Tell what was judged over time, and whether the X-rays are like those of the network's check."""

    period: PeriodName
    spans: list[SpanFigures]
    total: SpanFigures
    drift: DriftReport | None = Field(description="null where the network has no reference")


class Problem(BaseModel):
    """The reason why there is no answer, and what to do."""

    error: str


class TicketRequest(BaseModel, strict=True):
    """The file that a ticket is requested for."""

    name: str
    size: int = Field(ge=1, description="in bytes")


class ReviewRequest(BaseModel, strict=True):
    """What a reader says about the verdict that was shown."""

    verdict_etag: str = Field(description="`verdict_etag` of the verdict that was shown")
    said: Said = Field(
        description="`agree` or `disagree` with a label that is not `uncertain`, or what the reader sees; "
        "`withdrawn` takes the last answer back"
    )
    note: Note = ""
    blind: bool = Field(False, description="the verdict was hidden until then")


class ReviewsOfXray(BaseModel):
    """All reviews of an X-ray, in order of time; of each reader, the last one about a verdict counts."""

    verdict_etag: str | None = Field(description="of the verdict now; earlier reviews may be of another")
    review: ReviewState | None = Field(description="what readers said about the verdict now")
    reviews: list[Review]


class SelectionRequest(BaseModel, strict=True):
    """The X-rays to act on."""

    keys: list[str] = Field(min_length=1, max_length=500, description="whole keys, with `inbox/`")
    count: int | None = Field(
        None, description="the number of different keys; without it nothing is forgotten"
    )


class NotDone(BaseModel):
    """An X-ray that was left as it was."""

    key: str
    error: str


class Acted(BaseModel):
    """What came of acting on several X-rays."""

    asked: int
    done: int
    problems: list[NotDone]


class InboxKey(BaseModel):
    """The X-ray that was accepted."""

    key: str = Field(description="with `inbox/`; a number may have been added to the name")
    existed: bool = Field(False, description="the same file was there already: nothing changed")


class UploadTicket(InboxKey):
    """The URL and fields of a form that uploads the file, which is the last field, `file`."""

    url: str
    fields: dict[str, str]
