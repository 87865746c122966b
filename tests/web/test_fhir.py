"""Verdicts as FHIR: valid R4, equal to the verdict, and no number where none is meant."""

import json
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.operationoutcome import OperationOutcome

from pipeline.intake import record_verdict
from pipeline.names import report_id, verdict_key
from pipeline.records import Row
from pipeline.store.s3 import S3Store
from pipeline.verdict import DOUBTS, ReasonCode, Verdict, Warning
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.results import KEY, classified, finding, refused
from tests.support.webpage import HOSTILE, MAX_UPLOAD, NOW, UNICODE, Page
from tests.web.test_access import USERS, basic
from web.access import Access
from web.app import create_page
from web.audit import Audit

SEARCH = "/fhir/DiagnosticReport"


def stored(page: Page, verdict: Verdict, key: str = KEY) -> str:
    """Store a verdict; return the address of its report."""
    source = verdict.source.model_copy(update={"key": key, "etag": "e"})
    page.store.put(verdict_key(key), verdict.model_copy(update={"source": source}).to_json(), None)
    record_verdict(verdict_key(key), page.store, page.index)
    return f"{SEARCH}/{report_id(key)}"


def read(page: Page, address: str, **options: Any) -> dict[str, Any]:
    with page.client.get(address, **options) as answer:
        assert (answer.status_code, answer.content_type) == (200, "application/fhir+json")
        return valid(json.loads(answer.data))


def valid(report: dict[str, Any]) -> dict[str, Any]:
    DiagnosticReport.model_validate(report)
    assert "subject" not in json.dumps(report)
    inside = {f"#{one['id']}" for one in report["contained"]}
    observation = report["contained"][0]
    assert {report["result"][0]["reference"], observation["device"]["reference"]} == inside
    assert ("valueQuantity" in observation) != ("dataAbsentReason" in observation)
    return report


def told(report: dict[str, Any]) -> dict[str, Any]:
    """Return what the finding says, by code."""
    found: dict[str, Any] = {"WARNING": []}
    for part in report["contained"][0].get("component", []):
        code = part["code"]["coding"][0]["code"]
        if "valueQuantity" in part:
            found[code] = part["valueQuantity"]["value"]
        elif code == "WARNING":
            found[code].append(part["valueCodeableConcept"]["coding"][0]["code"])
        else:
            found[code] = part["valueCodeableConcept"]["coding"][0]["code"]
    return found


def outcome(page: Page, address: str, code: int, **options: Any) -> str:
    with page.client.get(address, **options) as answer:
        assert (answer.status_code, answer.content_type) == (code, "application/fhir+json"), answer.data
        [issue] = OperationOutcome.model_validate(json.loads(answer.data)).issue
        return f"{issue.code}: {issue.diagnostics}"


def test_a_label_has_its_number_and_what_it_assumes(page: Page) -> None:
    report = read(page, stored(page, classified(warnings=["age_unknown"])))
    assert (report["status"], report["id"]) == ("preliminary", report_id(KEY))
    assert report["contained"][0]["valueQuantity"]["value"] == 0.9312
    assert told(report) == {
        "WARNING": ["AGE-UNKNOWN"],
        "STATUS": "CLASSIFIED",
        "PREVALENCE": 0.74,
        "NORMAL-BELOW": 0.1573,
        "PNEUMONIA-ABOVE": 0.8747,
    }
    assert report["conclusion"].startswith("Not for diagnosis. Label: pneumonia.")
    assert "93.1%, if 74% of the patients" in report["conclusion"]
    assert report["conclusionCode"][0]["coding"][0]["code"] == "233604007"
    device = report["contained"][1]
    assert (device["serialNumber"], device["deviceName"][0]["name"]) == ("ab" * 32, "cxr")
    assert report["issued"] == "2026-11-26T23:30:12.345+00:00"
    assert report["presentedForm"][0]["url"] == "http://localhost/xray/x.dcm"
    assert report["identifier"][0]["value"] == "x.dcm"


def test_between_the_thresholds_there_is_a_number_and_a_reason(page: Page) -> None:
    report = read(page, stored(page, classified(finding(0.5))))
    assert told(report)["REASON"] == "BETWEEN"
    assert report["contained"][0]["valueQuantity"]["value"] == 0.5
    assert report["conclusionCode"][0]["coding"][0]["display"] == "Indeterminate"


@pytest.mark.parametrize("word", get_args(Warning))
def test_without_a_call_there_is_no_number(page: Page, word: Warning) -> None:
    found = finding(0.99, label="uncertain") if word in DOUBTS else finding(0.99)
    report = read(page, stored(page, classified(found, [word])))
    has_number = any(name in json.dumps(report) for name in ("valueQuantity", "0.99", "99.0%", "0.74"))
    assert has_number == (word not in DOUBTS)
    if word in DOUBTS:
        absent = report["contained"][0]["dataAbsentReason"]["coding"][0]["code"]
        assert (absent, report["status"]) == ("not-applicable", "preliminary")
        assert "No call" in report["conclusion"]
        assert told(report)["REASON"] in told(report)["WARNING"]


@pytest.mark.parametrize("code", get_args(ReasonCode))
@pytest.mark.parametrize(("status", "absent"), [("rejected", "not-performed"), ("failed", "error")])
def test_a_refusal_and_a_failure_are_cancelled(
    page: Page, status: str, absent: str, code: ReasonCode
) -> None:
    report = read(page, stored(page, refused(status, code, model=None)))
    assert report["status"] == "cancelled"
    assert report["contained"][0]["dataAbsentReason"]["coding"][0]["code"] == absent
    assert "There is no verdict: It is not one. Drop another." in report["conclusion"]
    assert "conclusionCode" not in report
    assert "valueQuantity" not in json.dumps(report)


def test_before_a_verdict_and_after_its_damage(page: Page) -> None:
    page.index.wait(["inbox/new.dcm"], NOW)
    report = read(page, f"{SEARCH}/{report_id('inbox/new.dcm')}")
    assert (report["status"], "issued" in report) == ("registered", False)
    address = stored(page, classified())
    info = page.store.head(verdict_key(KEY))
    assert info
    page.store.put(verdict_key(KEY), b"{", info.etag)
    assert read(page, address)["status"] == "unknown"
    page.index.wait([KEY], NOW)
    assert "may be about the earlier one" in read(page, address)["conclusion"]


@pytest.mark.parametrize("name", [HOSTILE, UNICODE, "a\nb.dcm", "../x.dcm", "ward 3/a|b,c.jpeg", "(null)"])
def test_any_name(page: Page, name: str) -> None:
    report = read(page, stored(page, classified(), f"inbox/{name}"))
    assert report["identifier"][0]["value"] == name
    system = report["identifier"][0]["system"]
    for asked in (name, f"{system}|{name}", f"|{name}"):
        with page.client.get(SEARCH, query_string={"identifier": asked}) as answer:
            found = json.loads(answer.data)
        Bundle.model_validate(found)
        assert [entry["resource"] for entry in found["entry"]] == [report]
        assert found["entry"][0]["fullUrl"].endswith(f"{SEARCH}/{report['id']}")


def test_a_search_goes_on_from_page_to_page(page: Page) -> None:
    for number in range(7):
        stored(page, classified(), f"inbox/{number}.dcm")
    address: str | None = f"{SEARCH}?_count=3"
    seen = []
    while address:
        found = json.loads(page.get(address))
        Bundle.model_validate(found)
        assert found["total"] == 7
        seen += [valid(entry["resource"])["identifier"][0]["value"] for entry in found["entry"]]
        following = [link["url"] for link in found["link"] if link["relation"] == "next"]
        address = following[0].removeprefix("http://localhost") if following else None
    assert sorted(seen) == [f"{number}.dcm" for number in range(7)]
    for query in ("_count=0", "_count=0&identifier=0.dcm"):
        found = json.loads(page.get(f"{SEARCH}?{query}"))
        Bundle.model_validate(found)
        assert (found["total"], "entry" in found, len(found["link"])) == (1 if "id" in query else 7, False, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("web.pacs.fhir.MOST_REPORTS", 2)
        found = json.loads(page.get(f"{SEARCH}?_count=1000"))
    assert (len(found["entry"]), found["link"][-1]["relation"]) == (2, "next")
    nothing = json.loads(page.get(f"{SEARCH}?identifier=none"))
    Bundle.model_validate(nothing)
    assert (nothing["total"], "entry" in nothing) == (0, False)


def test_what_is_wrong_is_an_operation_outcome(page: Page) -> None:
    address = stored(page, classified())
    assert outcome(page, f"{SEARCH}/x", 404).startswith("not-found")
    assert outcome(page, f"{SEARCH}/{'0' * 32}", 404).startswith("not-found")
    assert "DiagnosticReport" in outcome(page, "/fhir/Patient/1", 404)
    assert "knows the patient" in outcome(page, f"{SEARCH}?patient=1", 400)
    assert "_count" in outcome(page, f"{SEARCH}?_count=-1", 400)
    assert "once" in outcome(page, f"{SEARCH}?identifier=a&identifier=b", 400)
    assert "host name" in outcome(page, address, 400, headers={"Host": "evil.example"})
    for options in ({"headers": {"Accept": "application/fhir+xml"}}, {"query_string": {"_format": "xml"}}):
        assert "application/fhir+json" in outcome(page, address, 406, **options)
    for accept in ("application/fhir+json; fhirVersion=4.0", "application/fhir+json;charset=utf-8"):
        read(page, address, headers={"Accept": accept})
    for format_ in ("json", "application/fhir+json", "application/fhir+json; fhirVersion=4.0"):
        with page.client.get(address, query_string={"_format": format_}) as answer:
            assert answer.status_code == 200
    with page.client.post(address) as answer:
        assert (answer.status_code, answer.content_type) == (405, "application/fhir+json")
    with page.client.get(address) as answer:
        known = {"If-None-Match": answer.headers["ETag"]}
    with page.client.get(address, headers=known) as answer:
        assert answer.status_code == 304


def test_who_may_see_them(page: Page, tmp_path: Path) -> None:
    address = stored(page, classified())
    audit = Audit(tmp_path / "audit.jsonl", "secret")
    app = create_page(page.store, page.index, MAX_UPLOAD, access=Access(users=USERS), audit=audit)
    guarded = Page(app.test_client(), page.store, page.index)
    assert outcome(guarded, address, 401).startswith("login")
    guarded.get(address, headers=basic("ada"))
    guarded.get(SEARCH, headers=basic("ada"))
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines] == ["login", "view", "list"]
    assert "x.dcm" not in (tmp_path / "audit.jsonl").read_text()


def test_the_statement_and_the_link(page: Page) -> None:
    CapabilityStatement.model_validate(json.loads(page.get("/fhir/metadata")))
    secure = page.get("/fhir/metadata", headers={"X-Forwarded-Proto": "https"})
    assert json.loads(secure)["implementation"]["url"] == "https://localhost/fhir"
    address = stored(page, classified())
    assert f'href="{address}"' in page.xray("x.dcm")


def test_a_bucket(tmp_path: Path, s3_store: S3Store) -> None:
    index = SqliteIndex(tmp_path / "index.sqlite")
    client = create_page(s3_store, index, MAX_UPLOAD).test_client()
    page = Page(client, s3_store, index)  # type: ignore[arg-type]
    assert read(page, stored(page, classified()))["status"] == "preliminary"
    index.put(Row("inbox/mirrored.dcm", "rejected", reason="empty"))  # a row of the stack's worklist
    assert read(page, f"{SEARCH}/{report_id('inbox/mirrored.dcm')}")["status"] == "unknown"
    index.close()


def test_one_report_among_many_is_found_at_once(index: SqliteIndex) -> None:
    index.wait([f"inbox/{number}.dcm" for number in range(5_000)], NOW)
    plan = index.select("EXPLAIN QUERY PLAN SELECT * FROM rows WHERE report = ?", "")
    assert "rows_report" in " ".join(map(str, plan))
    began = time.monotonic()
    for number in range(0, 5_000, 50):
        row = index.find(report_id(f"inbox/{number}.dcm"))
        assert row
        assert row.key == f"inbox/{number}.dcm"
    assert time.monotonic() - began < 1


def test_a_link_by_id_leads_to_the_page_of_the_xray(page: Page) -> None:
    """Notices link so, without the name."""
    for key in ("inbox/a.jpeg", f"inbox/{HOSTILE}", f"inbox/{UNICODE}"):
        stored(page, classified(), key)
        answer = page.client.get(f"/x/{report_id(key)}")
        assert answer.status_code == 302
        assert page.client.get(answer.location).status_code == 200
    for unknown in ("0" * 32, "x", "a.jpeg"):
        assert page.client.get(f"/x/{unknown}").status_code == 404


def test_a_link_asks_users_for_their_password(page: Page) -> None:
    stored(page, classified(), "inbox/a.jpeg")
    closed = create_page(page.store, page.index, MAX_UPLOAD, access=Access(users=USERS)).test_client()
    address = f"/x/{report_id('inbox/a.jpeg')}"
    assert closed.get(address).status_code == 401
    assert closed.get(address, headers=basic("ada")).status_code == 302
