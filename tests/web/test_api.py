"""The interface for programs: its answers, and that its description is true (schemathesis)."""

import csv
import io
import json
import tracemalloc
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.openapi import from_wsgi
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from bench.page import fill
from pipeline.forget import erase_xrays
from pipeline.names import verdict_key
from pipeline.records import Row
from pipeline.verdict import Verdict
from pipeline.worklist import views
from tests.support.fakes import LIMIT
from tests.support.webpage import HOSTILE, MAX_UPLOAD, NOW, UNICODE, Booth, Page
from tests.web.test_access import USERS, basic
from tests.web.test_web_upload import failed
from web.access import Access
from web.app import create_page

_STATES = ("P", "N", "P atypical", "bad")


def filled(page: Page) -> Page:
    for number in range(12):
        name = f"ward {number % 2}/{number:02}.jpeg"
        page.judged(name, f"{_STATES[number % 4]} {number}".encode() if number % 4 < 3 else b"bad")
        page.finished(name, NOW - timedelta(minutes=number))
    for name in (HOSTILE, UNICODE, "=HYPERLINK(1).jpeg"):
        page.judged(name, b"N")
        page.finished(name, NOW - timedelta(days=1))
    page.index.wait(["inbox/new.jpeg"], NOW)
    return page


def test_the_worklist_goes_on_from_cursor_to_cursor(page: Page) -> None:
    filled(page)
    keys, address = [], "/api/verdicts?state=pneumonia&state=normal&order=triage&limit=4"
    following = address
    while True:
        found = json.loads(page.get(following))
        keys += [item["key"] for item in found["items"]]
        if not found["after"]:
            break
        with page.client.get(following) as answer:
            assert answer.headers["Link"] == f'<{address}&after={found["after"]}>; rel="next"'
        following = f"{address}&after={found['after']}"
    assert keys[:3] == ["inbox/ward 0/00.jpeg", "inbox/ward 0/04.jpeg", "inbox/ward 0/08.jpeg"]
    assert len(keys) == len(set(keys)) == 9


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("from=2025-11-23", 13),
        ("to=2025-11-22", 3),
        ("from=2025-11-22&to=2025-11-22", 3),
        ("from=2025-11-23T01:55Z", 7),
        ("from=2025-11-23T10:55%2B09:00&to=2025-11-23T01:58:00.5Z", 4),
        ("from=&to=", 16),
        ("from=0001-01-01&to=9999-12-31", 16),
    ],
)
def test_the_worklist_by_date(page: Page, address: str, found: int) -> None:
    filled(page)
    answer = page.get(f"/api/verdicts?{address}&limit=3")
    keys = [item["key"] for item in json.loads(answer)["items"]]
    while after := json.loads(answer)["after"]:
        answer = page.get(f"/api/verdicts?{address}&limit=3&after={after}")
        keys += [item["key"] for item in json.loads(answer)["items"]]
    assert len(set(keys)) == len(keys) == found
    html = page.get(f"/?{address}")
    assert html.count('class="row ') == found
    assert f"<b>{found}</b>" in html


def test_one_xray_with_its_whole_verdict(page: Page) -> None:
    page.judged("ward 3/a.jpeg", b"P")
    found = json.loads(page.get("/api/verdicts?search=a.jpeg"))["items"][0]
    assert (found["state"], found["probability"], found["normal_below"]) == ("pneumonia", 1.0, 0.4)
    whole = json.loads(page.get(found["url"]))
    assert whole["item"] == found
    stored = page.store.get(verdict_key("inbox/ward 3/a.jpeg"), LIMIT)
    assert stored
    assert Verdict.model_validate(whole["verdict"]) == Verdict.from_json(stored[1])
    with page.client.get(found["preview"]) as preview:
        assert preview.data == b"preview of P"


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("state=sick", "state"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("after=1", "after"),
        ("order=oldest", "order"),
        ("from=24.11.2026", "from"),
        ("from=2026-02-30", "from"),
        ("to=2026-11-24T08:00", "to"),
        (f"search={'x' * 201}", "search"),
    ],
)
def test_a_wrong_parameter_is_named(page: Page, address: str, word: str) -> None:
    assert f"wrong `{word}`" in json.loads(page.get(f"/api/verdicts?{address}", 400))["error"]
    if word != "limit":
        assert f"wrong `{word}`" in page.get(f"/?{address}", 400)


def test_an_unknown_name_is_a_problem_in_json(page: Page) -> None:
    assert "No X-ray" in json.loads(page.get("/api/verdicts/nothing", 404))["error"]
    assert "no page" in json.loads(page.get("/api/nothing", 404))["error"]


def test_the_table_has_every_row_and_no_formula(page: Page) -> None:
    filled(page)
    rows = list(csv.DictReader(io.StringIO(page.get("/api/verdicts.csv"), newline="")))
    assert len(rows) == 16
    assert {row["state"] for row in rows} == {"waiting", "pneumonia", "normal", "uncertain", "rejected"}
    names = {row["key"] for row in rows}
    assert {f"inbox/{HOSTILE}", f"inbox/{UNICODE}", "inbox/=HYPERLINK(1).jpeg"} <= names
    only = list(csv.DictReader(io.StringIO(page.get("/api/verdicts.csv?state=rejected"), newline="")))
    assert [row["reason"] for row in only] == ["unreadable"] * 3


def test_the_figures(page: Page) -> None:
    filled(page)
    status = json.loads(page.get("/api/status"))
    assert (status["total"], status["states"]["normal"], status["states"]["waiting"]) == (16, 6, 1)
    assert 'cxr_xrays{state="normal"} 6\n' in page.get("/metrics")


def described(page: Page, headers: dict[str, str], **parts: Any) -> list[APIOperation]:
    """Return the description of this page, with some parts of its own."""
    app = create_page(page.store, page.index, MAX_UPLOAD, **parts)
    found = from_wsgi("/api/openapi.json", app, headers=headers).get_all_operations()
    return [operation.ok() for operation in found]


WHO = {
    "open": ({}, {}, 200),
    "ada": (basic("ada"), {"access": Access(users=USERS)}, 200),
    "nobody": ({}, {"access": Access(users=USERS)}, 401),
    "another name": ({"Host": "evil.example"}, {}, 400),
    "another site": ({"Sec-Fetch-Site": "cross-site"}, {}, 403),
    "guesses": (basic("eve"), {"access": Access(users=USERS)}, 429),
}
READS = {
    "/api/verdicts",
    "/api/verdicts.csv",
    "/api/verdicts/{name}",
    "/api/status",
    "/api/statistics",
    "/healthz",
    "/metrics",
}
READS |= {"/fhir/DiagnosticReport/{id}", "/fhir/DiagnosticReport", "/fhir/metadata"}
WRITES = {"/upload", "/resubmit", "/upload/ticket", "/api/verdicts/{name}/reviews"}
WRITES |= {"/selected/csv", "/selected/again"}


@pytest.mark.parametrize("who", list(WHO))
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
def test_the_description_is_true(page: Page, mode: GenerationMode, who: str) -> None:
    """There is no server error, no answer outside the description, and no wrong input is accepted."""
    headers, parts, usual = WHO[who]
    said, seen = described(filled(page), basic("ada"), tickets=Booth(), **parts), set()
    assert {operation.path for operation in said} == READS | WRITES
    for operation in said:
        if mode is GenerationMode.NEGATIVE and not (operation.query or operation.body):
            continue  # nothing about it can be wrong
        seen |= tried(operation, mode, headers, usual == 200)
    wrong = mode is GenerationMode.NEGATIVE and usual == 200
    assert (400 if wrong else usual) in seen


def test_what_comes_of_a_write_is_described(page: Page) -> None:
    key = failed(filled(page), "failed.jpeg")
    erase = partial(erase_xrays, store=page.store, index=page.index, quiet=0)
    said = described(page, {}, tickets=Booth(), eraser=erase)
    writes = {operation.path: operation for operation in said if operation.method == "post"}
    selected = {name: writes[f"/selected/{name}"] for name in ("csv", "again", "forget")}
    review, name = writes["/api/verdicts/{name}/reviews"], "ward 0/00.jpeg"
    word = {"verdict_etag": (page.index.get(f"inbox/{name}") or Row("")).verdict_etag, "said": "agree"}
    json_type = "application/json"
    again, upload, ticket = writes["/resubmit"], writes["/upload"], writes["/upload/ticket"]
    form, large = "multipart/form-data", bytes(MAX_UPLOAD + 1)
    taken = {"name": "failed.jpeg", "size": 1}
    for case, code in (
        (again.Case(query={"key": key}), 202),
        (again.Case(query={"key": "inbox/ward 0/00.jpeg"}), 409),
        (upload.Case(body={"files": b"P"}, media_type=form), 200),
        (upload.Case(body={"files": large}, media_type=form), 413),
        (ticket.Case(body={**taken, "name": "new one.jpeg"}, media_type="application/json"), 200),
        (review.Case(path_parameters={"name": name}, body=word, media_type=json_type), 201),
        (
            review.Case(
                path_parameters={"name": name}, body={**word, "verdict_etag": "x"}, media_type=json_type
            ),
            409,
        ),
        (review.Case(path_parameters={"name": "no"}, body=word, media_type=json_type), 404),
        (
            review.Case(path_parameters={"name": name}, body={**word, "said": "yes"}, media_type=json_type),
            400,
        ),
        (ticket.Case(body=taken, media_type="application/json"), 409),
        (selected["csv"].Case(body={"keys": [key]}, media_type=json_type), 200),
        (selected["again"].Case(body={"keys": [key]}, media_type=json_type), 202),
        (selected["forget"].Case(body={"keys": [key], "count": 1}, media_type=json_type), 200),
        (selected["forget"].Case(body={"keys": [key]}, media_type=json_type), 400),
    ):
        answer = case.call_and_validate(headers={"Accept": "application/json"})
        assert answer.status_code == code
    without = {one.path for one in described(page, {}) if one.method == "post"}
    assert without == WRITES - {"/upload/ticket"}


def tried(operation: APIOperation, mode: GenerationMode, headers: dict[str, str], inside: bool) -> set[int]:
    """Send all kinds of requests and return the status codes."""
    seen = set()
    # Not every name is that of a file, or of an X-ray that failed; and strangers are let in nowhere.
    excluded = [positive_data_acceptance] if operation.method == "post" or not inside else []
    is_fhir = operation.path.startswith("/fhir/")
    sent = {"Accept": "application/fhir+json" if is_fhir else "application/json", **headers}

    @settings(max_examples=15 if inside else 5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        seen.add(case.call_and_validate(headers=sent, excluded_checks=excluded).status_code)

    ask()
    return seen


def test_a_csv_of_more_rows_needs_no_more_memory(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_RARE", 50)  # rows that are read at once
    page.get("/api/verdicts.csv")  # what is loaded on first use does not count
    few, many = (peak_of_csv(page, rows) for rows in (150, 600))
    assert many < 1.3 * few


def peak_of_csv(page: Page, rows: int) -> int:
    """Read a CSV of so many rows piece by piece; return the most memory that Python held meanwhile."""
    fill(page.index, rows)
    tracemalloc.start()
    with page.client.get("/api/verdicts.csv", buffered=False) as answer:
        assert sum(1 for _ in answer.iter_encoded()) == rows + 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
