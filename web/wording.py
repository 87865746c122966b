"""The words of the page: what codes, states and numbers are called."""

from datetime import UTC, datetime

from flask import Flask

from pipeline.names import INBOX
from pipeline.records import Row, State
from pipeline.verdict import NOTICE, Label, ReasonCode, Warning, doubt_of
from web.query import parameters, toggled

STATES: dict[State, str] = {
    "waiting": "Waiting",
    "working": "In progress",
    "pneumonia": "Pneumonia",
    "uncertain": "Uncertain",
    "normal": "Normal",
    "rejected": "Rejected",
    "failed": "Failed",
    "unknown": "No verdict",
}
LABELS: dict[Label, str] = {
    "pneumonia": "The probability is above the threshold for pneumonia.",
    "uncertain": "The probability is between the thresholds: the network does not decide.",
    "normal": "The probability of pneumonia is below the threshold for normal.",
}
UNDECIDED = "No call, and no probability: the reason is below."
REASONS: dict[ReasonCode, str] = {
    "empty": "The file is empty.",
    "too_large": "The file is too large.",
    "too_many_pixels": "The image has too many pixels.",
    "unsupported_format": "This is no image format that can be read here.",
    "unreadable": "The image is damaged.",
    "not_a_chest_xray": "This does not look like a chest X-ray.",
    "not_a_single_image": "The file holds more than one image.",
    "name_not_usable": "The file's name cannot be used. Rename it and drop it again.",
    "host_unavailable": "No host could be reached to judge it. Drop it again.",
    "took_too_long": "Judging it took too long, each time it was tried.",
    "out_of_memory": "Judging it needed too much memory, each time it was tried.",
    "crashed": "The program that reads images crashed over it, each time it was tried.",
    "internal": "It could not be judged, by no fault of its own. Drop it again.",
}
WARNINGS: dict[Warning, str] = {
    "atypical": "Too unlike the training images: no call.",
    "other_population": "Not a child's X-ray of the kind the network learned from: no call.",
    "age_outside_training": (
        "The patient is not 1 to 5 years old, as all in the training data were. On adults the network is no "
        "better than a coin."
    ),
    "age_unknown": (
        "The patient's age is unknown. The network learned from children of 1 to 5 years alone: a confident "
        "label on an adult is an error."
    ),
    "not_frontal": "The file says that this is no frontal view. The network knows frontal views only.",
    "for_processing": (
        "The file says that this is a detector's raw image (FOR PROCESSING). The network knows "
        "finished X-rays only."
    ),
    "evidence_outside": "Most of the evidence lies outside the chest: look at the map before you believe it.",
    "burned_in_text": "Text may be burned into the image. It may name the patient.",
}
TAGS: dict[Warning, str] = {
    "atypical": "atypical",
    "other_population": "other population",
    "age_outside_training": "age outside training",
    "age_unknown": "age unknown",
    "not_frontal": "not frontal",
    "for_processing": "raw image",
    "burned_in_text": "text in the image",
    "evidence_outside": "evidence outside",
}


def name_of(row: Row) -> str:
    """What people call the object: its key without `inbox/`."""
    return row.key.removeprefix(INBOX)


def is_addressable(name: str) -> bool:
    """Whether an address can hold the name: a browser follows the parts `.` and `..` elsewhere."""
    return not {".", ".."} & set(name.split("/"))


def percent(share: float, digits: int = 0) -> str:
    """A share as a percentage that never says 0 or 100 for what is not."""
    step = 10.0 ** -(digits + 2)
    if 0 < share < step:
        return f"< {step:.{digits}%}"
    if 1 - step < share < 1:
        return f"> {1 - step:.{digits}%}"
    return f"{share:.{digits}%}"


def file_size(size: int) -> str:
    """Bytes, in the unit that suits them."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def duration(row: Row) -> str | None:
    """How long it took to judge, where there is a verdict."""
    if row.started_at is None or row.finished_at is None:
        return None
    seconds = (row.finished_at - row.started_at).total_seconds()
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def utc(moment: datetime) -> str:
    """A time for those who have no script to put it into their own zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def install(app: Flask) -> None:
    """Make the words known to the templates."""
    for function in (duration, name_of, is_addressable, doubt_of, percent, file_size, utc):
        app.add_template_filter(function)
    app.jinja_env.globals.update(NOTICE=NOTICE, STATES=STATES, LABELS=LABELS, UNDECIDED=UNDECIDED)
    app.jinja_env.globals.update(REASONS=REASONS, WARNINGS=WARNINGS, TAGS=TAGS)
    app.jinja_env.globals.update(parameters=parameters, toggled=toggled)
