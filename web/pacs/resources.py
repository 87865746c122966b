"""Write a verdict as FHIR resources (R4): a DiagnosticReport with its finding and its device inside.

Like the DICOM report, it has a number only where the network stands by its label. There is no subject:
nothing here knows the patient.
"""

from datetime import datetime
from html import escape
from typing import Any

from pipeline.dicom import codes
from pipeline.dicom.codes import Code
from pipeline.judge import SeenVerdict
from pipeline.names import report_id
from pipeline.records import Row
from pipeline.verdict import NOTICE, Finding, Verdict, doubt_of
from web.wording import LABELS, WARNINGS, name_of, percent

Resource = dict[str, Any]

IDENTIFIERS = "urn:oid:2.25.255312742502800935550194058184193273267"  # of X-rays in an inbox
_OWN = "urn:oid:2.25.31962530398751797685505936665446277255"  # the scheme 99CXRINBOX
_UCUM, _TERMS = "http://unitsofmeasure.org", "http://terminology.hl7.org/CodeSystem"
_SYSTEMS = {
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "SCT": "http://snomed.info/sct",
    codes.SCHEME: _OWN,
}
_CHEST_VIEWS = {"system": "http://loinc.org", "code": "30745-4", "display": "XR Chest Views"}
_RADIOLOGY = {"system": f"{_TERMS}/v2-0074", "code": "RAD", "display": "Radiology"}
# The status of report and finding, and why there is no number; words of hl7.org/fhir/R4/terminologies.html.
# `cancelled` is for what was not completed, while `entered-in-error` would withdraw an earlier report. Nobody
# has verified a verdict: it stays `preliminary`.
_STATES = {
    "classified": ("preliminary", "not-applicable"),
    "rejected": ("cancelled", "not-performed"),
    "failed": ("cancelled", "error"),
    "waiting": ("registered", "temp-unknown"),
    "damaged": ("unknown", "unknown"),
}


def report_of(row: Row, seen: SeenVerdict, page: str | None) -> Resource:
    """Return the DiagnosticReport of a row with the verdict that was found; `page` is the page for people."""
    verdict = seen.verdict
    state = verdict.status if verdict else "damaged" if row.status else "waiting"
    status, absent = _STATES[state]
    conclusion = " ".join(_sentences(row, verdict, state))
    called = _called(verdict)
    what = codes.CHEST_XRAY if verdict and verdict.finding else codes.IMAGING
    resource = {
        "resourceType": "DiagnosticReport",
        "id": report_id(row.key),
        "text": {
            "status": "generated",
            "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{escape(conclusion)}</div>',
        },
        "contained": [_observation(verdict, called, status, absent), _device(verdict)],
        "identifier": [{"system": IDENTIFIERS, "value": name_of(row)}],
        "status": status,
        "category": [{"coding": [_RADIOLOGY]}],
        "code": {
            "coding": [*([_CHEST_VIEWS] if what is codes.CHEST_XRAY else []), _coding(what)],
            "text": "Search for pneumonia by a neural network; not for diagnosis",
        },
        "result": [{"reference": "#finding"}],
        "conclusion": conclusion,
    }
    if verdict:
        resource["issued"] = instant(verdict.finished_at)
    if verdict and verdict.finding and verdict.status == "classified":
        resource["conclusionCode"] = [_concept(codes.LABEL_CODES[verdict.finding.label])]
    if page:
        form = {"contentType": "text/html", "url": page, "title": "This X-ray on the page of CXR Inbox"}
        resource["presentedForm"] = [form]
    return resource


def instant(moment: datetime) -> str:
    """Return a time as FHIR writes it."""
    return moment.isoformat(timespec="milliseconds")


def _called(verdict: Verdict | None) -> Finding | None:
    """Return the finding whose number means something."""
    if verdict is None or verdict.status != "classified" or doubt_of(verdict.warnings):
        return None
    return verdict.finding


def _sentences(row: Row, verdict: Verdict | None, state: str) -> list[str]:
    said = ["Not for diagnosis."]
    if called := _called(verdict):
        share, prevalence = percent(called.probability, 1), percent(called.prevalence)
        said += [
            f"Label: {called.label}. {LABELS[called.label]}",
            f"Calibrated probability of pneumonia: {share}, if {prevalence} of the patients have pneumonia.",
        ]
    elif verdict and verdict.finding:
        said.append("Label: uncertain. There is no number where the network makes no call.")
    elif verdict:
        said.append(f"There is no verdict: {verdict.reason.message if verdict.reason else state}")
    else:
        said.append(
            "The X-ray waits to be judged." if state == "waiting" else "The stored verdict cannot be read."
        )
    said += [WARNINGS[word] for word in (verdict.warnings if verdict else ())]
    if row.status and row.waiting_since:
        said.append("The file was dropped again or replaced: this may be about the earlier one.")
    if row.source == "deleted":
        said.append("The file was deleted from the inbox: this is about the deleted file.")
    return [*said, verdict.notice if verdict else NOTICE]


def _observation(verdict: Verdict | None, called: Finding | None, status: str, absent: str) -> Resource:
    """Return the calibrated probability, with its assumptions and with what stands against it."""
    resource: Resource = {
        "resourceType": "Observation",
        "id": "finding",
        "status": status,
        "code": _concept(codes.PROBABILITY),
        "device": {"reference": "#device"},
    }
    parts = []
    if called:
        resource["valueQuantity"] = _quantity(called.probability)
        assumed = (
            (codes.PREVALENCE, called.prevalence),
            (codes.NORMAL_BELOW, called.thresholds.normal_below),
            (codes.PNEUMONIA_ABOVE, called.thresholds.pneumonia_above),
        )
        parts = [{"code": _concept(code), "valueQuantity": _quantity(value)} for code, value in assumed]
    else:
        coding = {"system": f"{_TERMS}/data-absent-reason", "code": absent}
        resource["dataAbsentReason"] = {"coding": [coding]}
    if verdict:
        told = [(codes.STATUS, codes.STATUS_CODES[verdict.status])]
        told += [(codes.REASON, reason) for reason in codes.reasons_of(verdict)]
        told += [(codes.WARNING, codes.WARNING_CODES[word]) for word in verdict.warnings]
        parts += [{"code": _concept(code), "valueCodeableConcept": _concept(value)} for code, value in told]
    return {**resource, "component": parts} if parts else resource


def _device(verdict: Verdict | None) -> Resource:
    """Return the network as a device; its serial number is the hash of its file, as in DICOM."""
    resource: Resource = {
        "resourceType": "Device",
        "id": "device",
        "manufacturer": "CXR Inbox",
        "type": {"text": "Research software, not a medical device"},
    }
    if verdict is None:
        return resource
    release = verdict.release
    versions = [("release", f"{release.version}, number {release.number}")]
    if network := verdict.model:
        resource["deviceName"] = [{"name": _text(network.name), "type": "model-name"}]
        resource["serialNumber"] = _text(network.sha256)
        versions += [("network", network.version), ("engine", network.engine)]
    resource["version"] = [{"type": {"text": kind}, "value": _text(value)} for kind, value in versions]
    return resource


def _text(value: str) -> str:
    return value.strip() or "-"  # FHIR has no empty texts


def _quantity(value: float) -> Resource:
    return {"value": value, "system": _UCUM, "code": codes.NO_UNITS.value}


def _coding(code: Code) -> Resource:
    return {"system": _SYSTEMS[code.scheme], "code": code.value, "display": code.meaning}


def _concept(code: Code) -> Resource:
    return {"coding": [_coding(code)]}
