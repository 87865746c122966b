"""Define the verdict: one JSON object for every object of the inbox."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

VERSION = "0.1.0"
RELEASE = 7  # incremented with every deployed change of model or code
SCHEMA: Literal["cxr-inbox/verdict/1"] = "cxr-inbox/verdict/1"

NOTICE = (
    "Research software, not a medical device. Trained on X-rays of children aged 1 to 5 from one "
    "hospital. The map shows what the network looked at; it does not locate disease."
)

Status = Literal["classified", "rejected", "failed"]
Label = Literal["normal", "pneumonia", "uncertain"]
ReasonCode = Literal[
    "empty",
    "too_large",
    "too_many_pixels",
    "unsupported_format",
    "unreadable",
    "not_a_chest_xray",
    "not_a_single_image",
    "name_not_usable",
    "host_unavailable",
    "took_too_long",
    "out_of_memory",
    "crashed",
    "internal",
]
Warning = Literal[
    "atypical",
    "other_population",
    "age_outside_training",
    "age_unknown",
    "not_frontal",
    "for_processing",
    "burned_in_text",
    "evidence_outside",
]
# Warnings with which there is no confident label.
DOUBTS: tuple[Warning, ...] = (
    "atypical",
    "other_population",
    "age_outside_training",
    "not_frontal",
    "for_processing",
)


def doubt_of(warnings: Iterable[Warning]) -> Warning | None:
    """Return the first of the warnings with which the network makes no call.

    The probability is then meaningless: the verdict keeps it, and nothing shows it.
    """
    return next((warning for warning in warnings if warning in DOUBTS), None)


_Probability = Annotated[float, Field(ge=0, le=1)]
_Grey = Annotated[float, Field(ge=0, le=255)]
_Count = Annotated[int, Field(ge=0, le=2**53)]  # exact in every JSON reader
LARGEST_GRID = 64  # cells per side; ours has 10
_MOST_EARLIER = 10  # verdicts in the history of one


def _possible(moment: datetime) -> datetime:
    """Refuse a year that no clock of ours shows: in another time zone it may not be a date at all."""
    if not 1970 <= moment.year < 9000:
        raise ValueError("not a possible time of judging")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_possible)]


class Part(BaseModel):
    """Serve as the base of all parts: unknown fields are an error on writing and ignored on reading.

    Two releases meet in a rolling deploy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Part):
    """Identify the inbox object that was judged."""

    bucket: str
    key: str
    etag: str = Field(description="ETag of the inbox object that was judged")
    version_id: str | None = None
    size: _Count = Field(description="bytes")
    sha256: str | None = Field(default=None, description="SHA-256 of the bytes; absent if they were not read")
    media_type: str | None = Field(default=None, description="type by content, never by name")
    width: _Count | None = Field(default=None, description="pixels, as shown (EXIF rotation applied)")
    height: _Count | None = None
    instance_uid: str | None = Field(
        default=None, description="SOP Instance UID of a DICOM file, only where CXR_KEEP_UID allows it"
    )
    brightness: _Grey | None = Field(
        default=None, description="mean grey of what the network saw, from 0 (black) to 255 (white)"
    )
    contrast: _Grey | None = Field(default=None, description="standard deviation of the same greys")


class Thresholds(Part):
    """Set the labels: `normal` below the first, `pneumonia` above the second, `uncertain` between them."""

    normal_below: _Probability
    pneumonia_above: _Probability

    def label(self, probability: float) -> Label:
        """Return the label of a calibrated probability."""
        if probability < self.normal_below:
            return "normal"
        return "pneumonia" if probability > self.pneumonia_above else "uncertain"


class Typicality(Part):
    """Measure how far this image is from the training images."""

    score: float
    atypical_above: float = Field(description="beyond it the label is `uncertain`, whatever the probability")
    refused_above: float = Field(gt=0, description="beyond it the image is rejected as not a chest X-ray")

    @property
    def is_atypical(self) -> bool:
        """Return whether the network should not be asked for a confident label."""
        return self.score > self.atypical_above


class Population(Part):
    """Estimate how likely this X-ray is of another population than the children of the training images."""

    other: _Probability
    doubted_above: _Probability = Field(
        description="beyond it the label is `uncertain`, whatever the probability"
    )

    @property
    def is_doubted(self) -> bool:
        """Return whether the network should not be asked for a confident label."""
        return self.other > self.doubted_above


class ActivationMap(Part):
    """Hold the class activation map: evidence for pneumonia (positive) and against it (negative), in logits.

    The mean of the grid is the network's logit before calibration. The map does not locate disease.
    """

    grid: list[list[float]] = Field(description="rows from top to bottom, each from left to right")
    box: tuple[float, float, float, float] = Field(
        description="left, top, right, bottom of the area that the grid covers, as shares of width and height"
    )

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        sides = {len(self.grid), *map(len, self.grid)}
        if not sides <= set(range(1, LARGEST_GRID + 1)) or len(set(map(len, self.grid))) != 1:
            raise ValueError("not a grid of rows of equal length")
        return self


class Finding(Part):
    """Hold the network's finding for a chest X-ray."""

    label: Label
    probability: _Probability = Field(description="calibrated P(pneumonia)")
    prevalence: _Probability = Field(description="the share of pneumonia that the probability assumes")
    thresholds: Thresholds
    typicality: Typicality | None = None
    population: Population | None = None
    map: ActivationMap


class Reason(Part):
    """Explain why there is no finding, and what to do about it."""

    code: ReasonCode
    message: str


class ModelRef(Part):
    """Identify the exact network that judged."""

    name: str
    version: str
    sha256: str = Field(description="SHA-256 of the ONNX file")
    engine: str


class Release(Part):
    """Identify the software that wrote the verdict; a verdict of a higher number is never undone."""

    number: _Count = RELEASE
    version: str = VERSION


class TimingMs(Part):
    """Record where the time went, in milliseconds."""

    fetch: float = 0
    decode: float = 0
    infer: float = 0
    write: float = Field(0, description="writing the preview; the verdict itself is not written yet")


class Earlier(Part):
    """Hold in short a verdict that was replaced: it was of another file, or by another network."""

    status: Status
    etag: str = Field(description="ETag of the inbox object that was judged")
    label: Label | None = None
    probability: _Probability | None = None
    thresholds: Thresholds | None = None
    warnings: list[Warning] = []
    reason: ReasonCode | None = None
    preview_key: str | None = None
    model: ModelRef | None = None
    finished_at: Moment


class Verdict(Part):
    """State the one answer for one object of the inbox."""

    schema_: Literal["cxr-inbox/verdict/1"] = Field(default=SCHEMA, alias="schema")
    status: Status
    source: Source
    finding: Finding | None = None
    warnings: list[Warning] = Field(
        default=[],
        description="in the order of this list; with `atypical`, `other_population`, `age_outside_training`,"
        " `not_frontal` or `for_processing` the label is `uncertain`, whatever the probability",
    )
    reason: Reason | None = None
    preview_key: str | None = None
    model: ModelRef | None = Field(default=None, description="absent where no network was available")
    release: Release
    started_at: Moment
    finished_at: Moment
    timing_ms: TimingMs = TimingMs()
    earlier: list[Earlier] = Field(
        default=[],
        description=f"the last {_MOST_EARLIER} verdicts of other files of this name, or by other networks, "
        "in short, the latest first",
    )
    notice: str = NOTICE

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status == "classified" and self.finding is None:
            raise ValueError("classified without a finding")
        return self

    def is_current(self, etag: str, release: int, network: str | None = None) -> bool:
        """Return whether an object with this ETag needs no work from this release.

        Where `network` names a sha256, the verdict must also be by that network.
        """
        if self.status == "failed" or self.source.etag != etag or self.release.number < release:
            return False
        is_later = self.release.number > release  # a later release's choice is never undone
        return network is None or is_later or (self.model is not None and self.model.sha256 == network)

    def replacing(self, last: Verdict | None) -> Verdict:
        """Return the verdict with the history of the last one, and with that one where it is another answer.

        It is not where the same file was judged again by the same network, or had not been judged by any.
        """
        if last is None:
            return self
        is_same_file = last.source.etag == self.source.etag
        is_same = is_same_file and (
            last.model is None or not self.model or last.model.sha256 == self.model.sha256
        )
        earlier = last.earlier if is_same else [last._in_short(), *last.earlier]
        return self.model_copy(update={"earlier": earlier[:_MOST_EARLIER]})

    def _in_short(self) -> Earlier:
        return Earlier(
            status=self.status,
            etag=self.source.etag,
            label=self.finding.label if self.finding else None,
            probability=self.finding.probability if self.finding else None,
            thresholds=self.finding.thresholds if self.finding else None,
            warnings=self.warnings,
            reason=self.reason.code if self.reason else None,
            preview_key=self.preview_key,
            model=self.model,
            finished_at=self.finished_at,
        )

    def to_json(self) -> bytes:
        """Return the verdict as UTF-8 JSON, as it stands in the outbox."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode()

    def to_json_line(self) -> str:
        """Return the same JSON on one line."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def from_json(cls, data: bytes) -> Verdict:
        """Read a verdict, also one of a later release; raise ValueError for anything else.

        Fields, warnings and reason codes that this release does not know are left out; a reason keeps its
        message. Impossible values raise ValueError, too.
        """
        try:
            content = json.loads(data)
            json.dumps(content, ensure_ascii=False).encode()  # an escape can hold half of a surrogate pair
            return cls.model_validate(_known(content), extra="ignore")
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _known(content: Any) -> Any:
    """Remove words of the closed lists that this release does not know, and repeated warnings."""
    if isinstance(content, dict):
        if isinstance(content.get("warnings"), list):
            said = {word for word in content["warnings"] if isinstance(word, str)}
            content["warnings"] = [word for word in get_args(Warning) if word in said]
        reason = content.get("reason")
        if isinstance(reason, dict) and reason.get("code") not in get_args(ReasonCode):
            reason["code"] = "internal"
        if isinstance(reason, str) and reason not in get_args(ReasonCode):  # of an earlier verdict
            content["reason"] = "internal"
        if isinstance(content.get("earlier"), list):
            content["earlier"] = [_known(one) for one in content["earlier"][:_MOST_EARLIER]]
    return content


def json_schema() -> dict[str, object]:
    """Return the verdict's JSON Schema (draft 2020-12), for the documentation and for other programs."""
    return Verdict.model_json_schema(by_alias=True, mode="serialization")
