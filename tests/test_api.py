"""The interface for programs: what it answers, and that its description is true (schemathesis)."""

import csv
import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.openapi import from_wsgi

from pipeline.names import verdict_key
from pipeline.verdict import Verdict
from tests.fakes import LIMIT
from tests.webpage import HOSTILE, NOW, UNICODE, Page, serve

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
            assert answer.headers["Link"].endswith('; rel="next"')
            assert answer.headers["Link"].split(">")[0][1:] == f"{address}&after={found['after']}".replace(
                "state=pneumonia&state=normal&order=triage&limit=4",
                "state=pneumonia&state=normal&order=triage&limit=4",
            )
        following = f"{address}&after={found['after']}"
    assert keys[:3] == ["inbox/ward 0/00.jpeg", "inbox/ward 0/04.jpeg", "inbox/ward 0/08.jpeg"]
    assert len(keys) == len(set(keys)) == 9


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


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
def test_the_description_is_true(tmp_path: Path, mode: GenerationMode) -> None:
    """No server error, no answer that is not described, nothing wrong that is taken."""
    app = filled(serve(tmp_path)).client.application
    operations = [found.ok() for found in from_wsgi("/api/openapi.json", app).get_all_operations()]
    assert len(operations) == 6
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.query:
            continue  # nothing about it can be wrong

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def tried(case: Case) -> None:
            case.call_and_validate()

        tried()
