"""Say what a verdict says, for programs as JSON and for people as a text, but not whose X-ray it is."""

from dataclasses import dataclass
from typing import Literal

from pydantic import AwareDatetime, Field

from pipeline.names import INBOX, key_hash, printable, report_id
from pipeline.outgoing.delivery import Delivery
from pipeline.verdict import NOTICE, Label, ModelRef, Part, ReasonCode, Status, Verdict, Warning, doubt_of

NOTICE_SCHEMA: Literal["cxr-inbox/notice/1"] = "cxr-inbox/notice/1"
_NOT_FOR_DIAGNOSIS = "Not for diagnosis."


class Links(Part):
    """Lead to more about the X-ray, for users of the page."""

    page: str = Field(description="page of the X-ray")
    report: str = Field(description="its FHIR DiagnosticReport")


class NoticeData(Part):
    """Hold what a verdict says."""

    schema_: Literal["cxr-inbox/notice/1"] = Field(default=NOTICE_SCHEMA, alias="schema")
    id: str = Field(description="the same for a verdict and a receiver, however often it comes")
    xray: str = Field(description="keyed hash of the X-ray's name")
    name: str | None = Field(default=None, description="the X-ray's name, only with `with_name`")
    verdict_etag: str = Field(description="ETag of the verdict in the outbox")
    status: Status
    label: Label | None = Field(default=None, description="absent without a finding")
    probability: float | None = Field(
        default=None, description="calibrated P(pneumonia); absent where the network makes no call"
    )
    prevalence: float | None = Field(
        default=None, description="the share of pneumonia that the probability assumes"
    )
    warnings: tuple[Warning, ...] = ()
    reason: ReasonCode | None = Field(default=None, description="why it was rejected, or failed")
    model: ModelRef | None = None
    started_at: AwareDatetime
    finished_at: AwareDatetime
    links: Links | None = Field(default=None, description="only where `page_url` is set")
    notice: str = NOTICE


class Notice(Part):
    """Tell of one verdict, in the form that Standard Webhooks recommends."""

    type: Literal["verdict"] = "verdict"
    timestamp: AwareDatetime = Field(description="when the X-ray was judged, not when this was sent")
    data: NoticeData

    def to_json(self) -> bytes:
        """Return the notice as JSON on one line."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()

    @property
    def title(self) -> str:
        """Return a short line for people."""
        return f"X-ray {self._outcome}"

    @property
    def text(self) -> str:
        """Return some lines for people."""
        links = [self.data.links.page] if self.data.links else []
        return "\n".join([f"{self._sentence} {_NOT_FOR_DIAGNOSIS}", f"X-ray {self.data.xray}", *links])

    @property
    def _outcome(self) -> str:
        if self.data.status == "classified":
            return f"judged: {self.data.label}"
        return "rejected" if self.data.status == "rejected" else "not judged"

    @property
    def _sentence(self) -> str:
        data, doubt = self.data, doubt_of(self.data.warnings)
        if data.status == "classified":
            more = f"no call: {_words(doubt)}" if doubt else f"P {data.probability:.2f}"
            return f"An X-ray was judged: {data.label} ({more})."
        why = f": {_words(data.reason)}" if data.reason else ""
        return f"An X-ray {'was rejected' if data.status == 'rejected' else 'could not be judged'}{why}."


@dataclass(frozen=True)
class NoticeWriter:
    """Write the notices for one receiver; `secret` keys their ids and the hashes of names."""

    receiver: str
    secret: str
    page_url: str | None = None
    with_name: bool = False

    def write(self, delivery: Delivery) -> Notice:
        """Return the notice of a verdict."""
        verdict, key = delivery.verdict, delivery.key
        finding = None if doubt_of(verdict.warnings) else verdict.finding
        data = NoticeData(
            id=self._id(delivery),
            xray=key_hash(key, self.secret),
            name=printable(key.removeprefix(INBOX)) if self.with_name else None,
            verdict_etag=delivery.verdict_etag,
            status=verdict.status,
            label=_label(verdict),
            probability=finding.probability if finding else None,
            prevalence=finding.prevalence if finding else None,
            warnings=tuple(dict.fromkeys(verdict.warnings)),
            reason=verdict.reason.code if verdict.reason else None,
            model=verdict.model,
            started_at=verdict.started_at,
            finished_at=verdict.finished_at,
            links=self._links(key),
        )
        return Notice(timestamp=verdict.finished_at, data=data)

    def _id(self, delivery: Delivery) -> str:
        parts = (self.receiver, delivery.key, delivery.verdict_etag)
        first, second = (key_hash("\n".join((half, *parts)), self.secret) for half in "12")
        return f"msg_{first}{second}"

    def _links(self, key: str) -> Links | None:
        if self.page_url is None:
            return None
        base, report = self.page_url.rstrip("/"), report_id(key)
        return Links(page=f"{base}/x/{report}", report=f"{base}/fhir/DiagnosticReport/{report}")


def notice_json_schema() -> dict[str, object]:
    """Return the notice's JSON Schema (draft 2020-12), for the documentation and for other programs."""
    return Notice.model_json_schema(by_alias=True, mode="serialization")


def _label(verdict: Verdict) -> Label | None:
    return verdict.finding.label if verdict.finding else None


def _words(code: str | None) -> str:
    return (code or "").replace("_", " ")
