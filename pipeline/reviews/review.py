"""Define the review: what one reader said about one verdict, as one JSON object that is never changed."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from pipeline.errors import NotReviewed
from pipeline.records import Answer, Sees
from pipeline.verdict import Label, ModelRef, Moment, Part, Release, Warning

REVIEW_SCHEMA: Literal["cxr-inbox/review/1"] = "cxr-inbox/review/1"
LONGEST_NOTE = 500  # characters
LONGEST_USER = 256
# Control characters, and those that end a line or turn the direction of text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# A reader either judges the verdict, says what the X-ray shows, or takes the last answer back.
Said = Literal["agree", "disagree", "pneumonia", "not_pneumonia", "unsure", "withdrawn"]


def _plain(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("it has a control character")
    return text


Note = Annotated[str, Field(max_length=LONGEST_NOTE), AfterValidator(_plain)]


class Review(Part):
    """State what one reader said about one verdict; a later object of the same reader replaces it."""

    schema_: Literal["cxr-inbox/review/1"] = Field(default=REVIEW_SCHEMA, alias="schema")
    user: str | None = Field(
        default=None, max_length=LONGEST_USER, description="absent where the page knows no users"
    )
    at: Moment
    answer: Answer = Field(
        description="with `decided` the label was `uncertain` and the reader was not; `withdrawn` takes the "
        "reader's earlier answer back"
    )
    sees: Sees | None = Field(
        default=None,
        description="what the reader sees: said in so many words, or implied by agreeing or disagreeing; "
        "absent where the answer is withdrawn",
    )
    note: Note = ""
    blind: bool = Field(description="the page hid the verdict until the reader had said")
    key: str = Field(description="of the X-ray")
    source_etag: str = Field(description="of the file that the verdict judged")
    verdict_etag: str = Field(description="of the verdict that was reviewed")
    label: Label = Field(description="of that verdict")
    warnings: list[Warning] = Field(default=[], description="of that verdict")
    model: ModelRef | None = None
    release: Release = Release()

    def to_json(self) -> bytes:
        """Return the review as UTF-8 JSON, as it stands in the outbox."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Review:
        """Read a review, also one of a later release; raise ValueError for anything else."""
        try:
            content = json.loads(data)
            if isinstance(content, dict) and isinstance(content.get("warnings"), list):
                content["warnings"] = [word for word in content["warnings"] if word in get_args(Warning)]
            return cls.model_validate(content, extra="ignore")
        except (RecursionError, TypeError) as error:
            raise ValueError("not a review") from error


def answer_of(said: Said, label: Label) -> tuple[Answer, Sees | None]:
    """Return the answer that a reader's word gives to a label, and what the reader sees.

    Agreeing with `pneumonia` or disagreeing with `normal` is to see pneumonia. There is nothing to agree with
    in `uncertain`: raises NotReviewed.
    """
    if said == "withdrawn":
        return "withdrawn", None
    if said == "unsure":
        return "unsure", "unsure"
    if said in ("agree", "disagree"):
        if label == "uncertain":
            raise NotReviewed("The network made no call: say what you see, pneumonia or not.")
        sees: Sees = "pneumonia" if (said == "agree") == (label == "pneumonia") else "not_pneumonia"
    else:
        sees = "pneumonia" if said == "pneumonia" else "not_pneumonia"
    if label == "uncertain":
        return "decided", sees
    return "agree" if (sees == "pneumonia") == (label == "pneumonia") else "disagree", sees


def review_json_schema() -> dict[str, object]:
    """Return the review's JSON Schema (draft 2020-12), for the documentation and for other programs."""
    return Review.model_json_schema(by_alias=True, mode="serialization")
