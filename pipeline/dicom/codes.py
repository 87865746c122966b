"""The codes of a report, in DICOM and in FHIR: standard ones where they mean the same, else our own.

docs/pacs.md lists them. Our own are of the scheme 99CXRINBOX. A code is never given another meaning.
"""

from typing import NamedTuple

from pipeline.verdict import Label, ReasonCode, Status, Verdict, Warning, doubt_of


class Code(NamedTuple):
    """Hold a code, its scheme, and what it means there."""

    value: str
    scheme: str
    meaning: str


SCHEME = "99CXRINBOX"
SCHEME_NAME = "Codes of CXR Inbox"


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


def _own(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


IMAGE_LIBRARY = _dcm("111028", "Image Library")
IMAGE_GROUP = _dcm("126200", "Image Library Group")
SOURCE_IMAGE = _sct("260753009", "Source")
PROCESSED = _dcm("121322", "Source image for image processing operation")
COMMENT = _dcm("121106", "Comment")
NO_UNITS = Code("1", "UCUM", "no units")
CHEST_XRAY = _sct("399208008", "Plain chest X-ray")
IMAGING = _sct("363679005", "Imaging")

STATUS = _own("STATUS", "Status of the verdict")
REASON = _own("REASON", "Reason why there is no call")
WARNING = _own("WARNING", "Warning")
PROBABILITY = _own("PROBABILITY", "Probability of pneumonia, calibrated")
PREVALENCE = _own("PREVALENCE", "Share of pneumonia that the probability assumes")
NORMAL_BELOW = _own("NORMAL-BELOW", "Threshold: normal below")
PNEUMONIA_ABOVE = _own("PNEUMONIA-ABOVE", "Threshold: pneumonia above")
BETWEEN = _own("BETWEEN", "The probability is between the two thresholds")

LABEL_CODES: dict[Label, Code] = {
    "pneumonia": _sct("233604007", "Pneumonia"),
    "normal": _sct("17621005", "Normal"),
    "uncertain": _sct("82334004", "Indeterminate"),
}
STATUS_CODES: dict[Status, Code] = {
    "classified": _own("CLASSIFIED", "Classified"),
    "rejected": _own("REJECTED", "Rejected: the file cannot be judged"),
    "failed": _own("FAILED", "Failed: judging did not finish"),
}
WARNING_CODES: dict[Warning, Code] = {
    "atypical": _own("ATYPICAL", "No call: too unlike the training images"),
    "other_population": _own("POPULATION", "No call: probably of another population"),
    "age_outside_training": _own("AGE-OUTSIDE", "No call: the patient is not 1 to 5 years old"),
    "age_unknown": _own("AGE-UNKNOWN", "Age unknown; trained on children aged 1 to 5"),
    "not_frontal": _own("NOT-FRONTAL", "No call: not a frontal view"),
    "for_processing": _own("FOR-PROCESSING", "No call: raw image of a detector"),
    "burned_in_text": _own("BURNED-IN-TEXT", "Text may be burned into the image"),
    "evidence_outside": _own("OUTSIDE-CHEST", "Most of the evidence lies outside the chest"),
}
REASON_CODES: dict[ReasonCode, Code] = {
    "empty": _own("EMPTY", "The file is empty"),
    "too_large": _own("TOO-LARGE", "The file is too large"),
    "too_many_pixels": _own("PIXELS", "The image has too many pixels"),
    "unsupported_format": _own("FORMAT", "The file format is not supported"),
    "unreadable": _own("UNREADABLE", "The image is damaged"),
    "not_a_chest_xray": _own("NOT-CHEST", "Not a chest X-ray"),
    "not_a_single_image": _own("NOT-SINGLE", "More than one image"),
    "name_not_usable": _own("NAME", "The file name cannot be used"),
    "host_unavailable": _own("NO-HOST", "No host was available to judge it"),
    "took_too_long": _own("TOO-SLOW", "Judging took too long"),
    "out_of_memory": _own("MEMORY", "Judging needed too much memory"),
    "crashed": _own("CRASHED", "The image decoder crashed"),
    "internal": _own("INTERNAL", "Internal error"),
}


def reasons_of(verdict: Verdict) -> list[Code]:
    """Return why there is no label or no call, in one code; none where there is a label."""
    if verdict.status != "classified" or verdict.finding is None:
        return [REASON_CODES[verdict.reason.code if verdict.reason else "internal"]]
    if doubt := doubt_of(verdict.warnings):
        return [WARNING_CODES[doubt]]
    return [BETWEEN] if verdict.finding.label == "uncertain" else []
