"""The verdict: one JSON object for every object of the inbox."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

VERSION = "0.1.0"
RELEASE = 7  # grows with every deployed change of model or code
SCHEMA: Literal["cxr-inbox/verdict/1"] = "cxr-inbox/verdict/1"

NOTICE = (
    "Research software, not a medical device. Trained on X-rays of children of 1 to 5 years from one "
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
DOUBTS: tuple[Warning, ...] = (
    "atypical",
    "other_population",
    "age_outside_training",
    "not_frontal",
    "for_processing",
)  # no confident label with these


def doubt_of(warnings: Iterable[Warning]) -> Warning | None:
    """Return the first of the warnings with which the network does not decide.

    The probability means nothing then: the verdict keeps it, and nothing shows it.
    """
    return next((warning for warning in warnings if warning in DOUBTS), None)


_Probability = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0, le=2**53)]  # what every reader of JSON takes for the same number
LARGEST_GRID = 64  # cells of a side; ours has 9


def _possible(moment: datetime) -> datetime:
    """Refuse a year that no clock of ours shows: in another zone it may be no date at all."""
    if not 1970 <= moment.year < 9000:
        raise ValueError("no time at which something was judged")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_possible)]


class Part(BaseModel):
    """Unknown fields are an error where we write, and ignored where
    we read: two releases meet in a rolling deploy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Part):
    """The inbox object that was judged."""

    bucket: str
    key: str
    etag: str = Field(description="of the inbox object that was judged")
    version_id: str | None = None
    size: _Count = Field(description="bytes")
    sha256: str | None = Field(default=None, description="of the bytes; absent where they were not read")
    media_type: str | None = Field(default=None, description="by content, never by name")
    width: _Count | None = Field(default=None, description="pixels, as shown (EXIF rotation applied)")
    height: _Count | None = None
    instance_uid: str | None = Field(
        default=None, description="SOP Instance UID of a DICOM file, only where CXR_KEEP_UID allows it"
    )


class Thresholds(Part):
    """A probability under the first is `normal`, above the second `pneumonia`, between them `uncertain`."""

    normal_below: _Probability
    pneumonia_above: _Probability

    def label(self, probability: float) -> Label:
        """The label of a calibrated probability."""
        if probability < self.normal_below:
            return "normal"
        return "pneumonia" if probability > self.pneumonia_above else "uncertain"


class Typicality(Part):
    """How unlike the training images this one is."""

    score: float
    atypical_above: float = Field(description="beyond it the label is `uncertain`, whatever the probability")
    refused_above: float = Field(gt=0, description="beyond it the image is rejected as no chest X-ray")

    @property
    def is_atypical(self) -> bool:
        """Whether the network should not be asked for a confident label."""
        return self.score > self.atypical_above


class Population(Part):
    """How likely this X-ray is of another population than the children that the network learned from."""

    other: _Probability
    doubted_above: _Probability = Field(
        description="beyond it the label is `uncertain`, whatever the probability"
    )

    @property
    def is_doubted(self) -> bool:
        """Return whether the network should not be asked for a confident label."""
        return self.other > self.doubted_above


class ActivationMap(Part):
    """The class activation map: evidence for pneumonia (positive) and against it (negative), in logits.

    The mean of the grid is the logit that the network gave, before calibration. It is no localisation of
    disease.
    """

    grid: list[list[float]] = Field(description="rows from top to bottom, each from left to right")
    box: tuple[float, float, float, float] = Field(
        description="left, top, right, bottom of the area that the grid covers, as shares of width and height"
    )

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        sides = {len(self.grid), *map(len, self.grid)}
        if not sides <= set(range(1, LARGEST_GRID + 1)) or len(set(map(len, self.grid))) != 1:
            raise ValueError("no grid of rows that are equally long")
        return self


class Finding(Part):
    """What the network says of a chest X-ray."""

    label: Label
    probability: _Probability = Field(description="calibrated P(pneumonia)")
    prevalence: _Probability = Field(description="the share of pneumonia that the probability assumes")
    thresholds: Thresholds
    typicality: Typicality | None = None
    population: Population | None = None
    map: ActivationMap


class Reason(Part):
    """Why there is no finding, and what to do about it."""

    code: ReasonCode
    message: str


class ModelRef(Part):
    """Exactly which network judged."""

    name: str
    version: str
    sha256: str = Field(description="of the ONNX file")
    engine: str


class Release(Part):
    """What wrote the verdict. The number orders releases: a verdict of a higher one is never undone."""

    number: _Count = RELEASE
    version: str = VERSION


class TimingMs(Part):
    """Where the time went, in milliseconds."""

    fetch: float = 0
    decode: float = 0
    infer: float = 0
    write: float = Field(0, description="of the preview; the verdict itself is still to be written")


class Verdict(Part):
    """The one answer for one object of the inbox."""

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
    model: ModelRef | None = Field(default=None, description="absent where no network was reached")
    release: Release
    started_at: Moment
    finished_at: Moment
    timing_ms: TimingMs = TimingMs()
    notice: str = NOTICE

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status == "classified" and self.finding is None:
            raise ValueError("classified, and no finding")
        return self

    def is_current(self, etag: str, release: int, network: str | None = None) -> bool:
        """Whether an object of this ETag needs no work of this release; nor of the network with this sha256,
        where one is named.
        """
        if self.status == "failed" or self.source.etag != etag or self.release.number < release:
            return False
        is_later = self.release.number > release  # what a later release chose is never undone
        return network is None or is_later or (self.model is not None and self.model.sha256 == network)

    def to_json(self) -> bytes:
        """UTF-8 JSON, as it stands in the outbox."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode()

    def to_json_line(self) -> str:
        """The same JSON on one line."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def from_json(cls, data: bytes) -> Verdict:
        """Read a verdict, also one of a later release; ValueError when it is none, or says what cannot be.

        What this release does not know is left out: fields, warnings, and a reason's code (its sentence
        stays).
        """
        try:
            content = json.loads(data)
            json.dumps(content, ensure_ascii=False).encode()  # half a character can be written as an escape
            return cls.model_validate(_known(content), extra="ignore")
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _known(content: Any) -> Any:
    """Without the words of the closed lists that this release does not know; each warning once."""
    if isinstance(content, dict):
        if isinstance(content.get("warnings"), list):
            said = {word for word in content["warnings"] if isinstance(word, str)}
            content["warnings"] = [word for word in get_args(Warning) if word in said]
        reason = content.get("reason")
        if isinstance(reason, dict) and reason.get("code") not in get_args(ReasonCode):
            reason["code"] = "internal"
    return content


def json_schema() -> dict[str, object]:
    """The verdict's JSON Schema (draft 2020-12), for the documentation and for other programs."""
    return Verdict.model_json_schema(by_alias=True, mode="serialization")
