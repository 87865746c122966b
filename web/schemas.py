"""Model the requests and answers of the interface for programs; `web.openapi` describes them."""

from datetime import datetime

from pydantic import BaseModel, Field

from pipeline.records import Operations, RowState, SourceState
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
    source: SourceState = Field("present", description="whether the file is still in the inbox")
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
    operations: Operations | None = Field(None, description="null where the page knows no host")


class Problem(BaseModel):
    """The reason why there is no answer, and what to do."""

    error: str


class TicketRequest(BaseModel, strict=True):
    """The file that a ticket is requested for."""

    name: str
    size: int = Field(ge=1, description="in bytes")


class InboxKey(BaseModel):
    """The X-ray that was accepted."""

    key: str = Field(description="with `inbox/`; a number may have been added to the name")


class UploadTicket(InboxKey):
    """The URL and fields of a form that uploads the file, which is the last field, `file`."""

    url: str
    fields: dict[str, str]
