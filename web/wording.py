"""The words of the page for codes, states and numbers."""

from collections.abc import Sequence
from datetime import UTC, datetime

from flask import Flask

from pipeline.names import INBOX, report_id
from pipeline.records import Answer, HostState, ReviewState, Row, RowState, Sees
from pipeline.verdict import NOTICE, Label, ReasonCode, Warning, doubt_of
from web.query import parameters, read_toggled, toggled

STATE_NAMES: dict[RowState, str] = {
    "waiting": "Waiting",
    "working": "In progress",
    "pneumonia": "Pneumonia",
    "uncertain": "Uncertain",
    "normal": "Normal",
    "rejected": "Rejected",
    "failed": "Failed",
    "unknown": "No verdict",
}
REVIEW_NAMES: dict[ReviewState, str] = {
    "unread": "Unread",
    "agreed": "Agreed",
    "disagreed": "Disagreed",
    "unsure": "Unsure",
    "decided": "Reader's call",
    "mixed": "Readers differ",
}
ANSWERS: dict[Answer, str] = {
    "agree": "agrees",
    "disagree": "disagrees",
    "decided": "sees",
    "unsure": "is unsure",
}
YOUR_ANSWERS: dict[Answer, str] = {
    "agree": "agree",
    "disagree": "disagree",
    "decided": "see",
    "unsure": "are unsure",
}
SIGHTS: dict[Sees, str] = {
    "pneumonia": "pneumonia",
    "not_pneumonia": "no pneumonia",
    "unsure": "unsure",
}
HOST_STATE_NAMES: dict[HostState, str] = {
    "off": "Off",
    "starting": "Starting",
    "ready": "Ready",
    "busy": "Busy",
    "stopping": "Stopping",
    "unknown": "Unknown",
}
LABELS: dict[Label, str] = {
    "pneumonia": "The probability is above the threshold for pneumonia.",
    "uncertain": "The probability is between the two thresholds.",
    "normal": "The probability is below the threshold for normal.",
}
UNDECIDED = "No probability is shown: see the reason below."
REASONS: dict[ReasonCode, str] = {
    "empty": "The file is empty.",
    "too_large": "The file is too large.",
    "too_many_pixels": "The image has too many pixels.",
    "unsupported_format": "The file format is not supported.",
    "unreadable": "The image is damaged.",
    "not_a_chest_xray": "This does not look like a chest X-ray.",
    "not_a_single_image": "The file contains more than one image.",
    "name_not_usable": "The file name cannot be used. Rename the file and drop it again.",
    "host_unavailable": "No host was available to judge it. Drop it again.",
    "took_too_long": "Judging took too long on every attempt.",
    "out_of_memory": "Judging needed too much memory on every attempt.",
    "crashed": "The image decoder crashed on every attempt.",
    "internal": "It could not be judged because of an internal error. Drop it again.",
}
WARNINGS: dict[Warning, str] = {
    "atypical": "No call: too unlike the training images.",
    "other_population": "No call: probably not a child's X-ray like those the network was trained on.",
    "age_outside_training": (
        "No call: the patient is not 1 to 5 years old, as all patients in the training data were. On adults "
        "the network is no better than chance."
    ),
    "age_unknown": (
        "The patient's age is unknown. The network was trained on children aged 1 to 5: do not trust a "
        "confident label on an adult."
    ),
    "not_frontal": "No call: the file says it is not a frontal view. The network knows frontal views only.",
    "for_processing": (
        "No call: the file says it is a detector's raw image (FOR PROCESSING). The network knows processed "
        "X-rays only."
    ),
    "evidence_outside": (
        "Most of the evidence lies outside the chest: check the map before you trust the label."
    ),
    "burned_in_text": "Text may be burned into the image, and may name the patient.",
}
WARNING_TAGS: dict[Warning, str] = {
    "atypical": "atypical",
    "other_population": "other population",
    "age_outside_training": "age outside training",
    "age_unknown": "age unknown",
    "not_frontal": "not frontal",
    "for_processing": "raw image",
    "burned_in_text": "text in the image",
    "evidence_outside": "evidence outside the chest",
}
SAMPLES = {  # keys and ETags of the synthetic X-rays of a first run, events/samples
    "inbox/adult-1.jpeg": "403e72d1a7458c17df6e8a866d75ff66",
    "inbox/child-1.dcm": "5c108ac554c8eac375b1b8993b0cdaed",
    "inbox/normal-1.jpeg": "4d11322e65f2bddceea0a257ce9294c7",
    "inbox/normal-2.jpeg": "0647933b9a1c7c7095819eb291f7bfbb",
    "inbox/photograph-1.png": "f34513daa0a348b75723c37eb4369b17",
    "inbox/pneumonia-1.jpeg": "a669785a95bc21ca499185cf188d51f9",
    "inbox/pneumonia-2.jpeg": "dd1f6633b5ae0516255134e6729fbf10",
    "inbox/uncertain-1.jpeg": "def83f9d7f664f0461493f0cd0cdaef1",
}


def name_of(row: Row) -> str:
    """Return the name of an X-ray: its key without `inbox/`."""
    return row.key.removeprefix(INBOX)


def are_samples(rows: Sequence[Row]) -> bool:
    """Return whether there are rows, and nothing but the synthetic X-rays of a first run."""
    return bool(rows) and all(row.key in SAMPLES and row.etag in (None, SAMPLES[row.key]) for row in rows)


def is_addressable(name: str) -> bool:
    """Return whether the name can be part of an address: a browser resolves the parts `.` and `..`."""
    return not {".", ".."} & set(name.split("/"))


def percent(share: float, digits: int = 0) -> str:
    """Format a share as a percentage: 0 % and 100 % only where they are exact."""
    step = 10.0 ** -(digits + 2)
    if 0 < share < step:
        return f"< {step:.{digits}%}"
    if 1 - step < share < 1:
        return f"> {1 - step:.{digits}%}"
    return f"{share:.{digits}%}"


def file_size(size: int) -> str:
    """Format a number of bytes in a suitable unit."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def duration(row: Row) -> str | None:
    """Format how long judging took; None before there is a verdict."""
    if row.started_at is None or row.finished_at is None:
        return None
    seconds = (row.finished_at - row.started_at).total_seconds()
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"


def utc(moment: datetime) -> str:
    """Format a time in UTC, for readers without the script that converts it to their time zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def install(app: Flask) -> None:
    """Make the words available to the templates."""
    for function in (duration, name_of, are_samples, is_addressable, doubt_of, percent, file_size, utc):
        app.add_template_filter(function)
    app.add_template_filter(lambda row: report_id(row.key), "report_id")
    app.jinja_env.globals.update(NOTICE=NOTICE, STATE_NAMES=STATE_NAMES, LABELS=LABELS, UNDECIDED=UNDECIDED)
    app.jinja_env.globals.update(REASONS=REASONS, WARNINGS=WARNINGS, WARNING_TAGS=WARNING_TAGS)
    app.jinja_env.globals.update(parameters=parameters, toggled=toggled, read_toggled=read_toggled)
    app.jinja_env.globals.update(
        REVIEW_NAMES=REVIEW_NAMES, ANSWERS=ANSWERS, SIGHTS=SIGHTS, YOUR_ANSWERS=YOUR_ANSWERS
    )
