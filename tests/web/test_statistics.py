"""The statistics: the page, the same figures for programs, and the alarm of drift."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import pytest

from model.evaluate.card import shipped_card
from pipeline.names import verdict_key
from pipeline.records import Reviewed
from pipeline.verdict import Verdict
from tests.pipeline.statistics.test_daily import DONE
from tests.support.fakes import LIMIT
from tests.support.webpage import Page, serve
from web.statistics.routes import day_name

CARD = shipped_card()


@pytest.fixture
def checked(tmp_path: Path) -> Page:
    """Serve the page of the shipped network, which has a reference."""
    return serve(tmp_path, json.loads(CARD.model_dump_json()))


def unlike(page: Page) -> None:
    """Fill the last week with X-rays that are far too bright."""
    for number in range(140):
        moment = datetime.now(UTC) - timedelta(days=number / 20)
        row = replace(DONE, key=f"inbox/{number}", started_at=moment, finished_at=moment, model=CARD.sha256)
        page.index.put(replace(row, brightness=230.0, aspect=None, contrast=None, typicality=None))


def test_the_page_counts_what_was_judged(page: Page) -> None:
    for name, data in {"a": b"P", "b": b"N", "c": b"P atypical", "d": b"bad"}.items():
        page.judged(f"{name}.jpeg", data)
    html = page.get("/statistics")
    figures = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", html))
    assert figures == {
        "Verdicts": "4",
        "Uncertain": "33.3%",
        "No call": "33.3%",
        "Rejected": "25.0%",
        "Mean probability": "50.0%",
    }
    assert "The image is damaged." in html
    assert "atypical" in html
    assert "not the shipped one" in html
    assert html.count("<g><title>") == 4 * 30
    assert page.get("/statistics?period=12m").count("<g><title>") == 4 * 12
    assert 'href="/statistics"' in page.get("/")


def test_blind_mode_hides_what_tells_labels(checked: Page) -> None:
    for name, data in {"a": b"P", "b": b"P atypical", "c": b"bad"}.items():
        checked.judged(f"{name}.jpeg", data)
    checked.client.post("/blind", data={"on": "1"})
    for period in ("30d", "12m"):
        html = checked.get(f"/statistics?period={period}")
        assert re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", html) == [
            ("Verdicts", "3"),
            ("Rejected", "33.3%"),
        ]
        assert re.findall("is-pneumonia|is-uncertain|<g>|Uncertain|Probability<|atypical<", html) == []
        assert "The image is damaged." in html
        assert "Blind mode: counts by label" in html


def test_an_empty_worklist_has_statistics(checked: Page) -> None:
    html = checked.get("/statistics")
    assert "Every file had a finding." in html
    assert html.count("too few X-rays") == 10
    assert "Unlike the data" not in html + checked.get("/")
    assert "cxr_drift_alarm 0\n" in checked.get("/metrics")
    assert "cxr_drift_psi{" not in checked.get("/metrics")


def test_a_shift_is_told_on_both_pages_and_in_the_metrics(checked: Page) -> None:
    unlike(checked)
    since = day_name((datetime.now(UTC) - timedelta(days=2)).date())
    for html in (checked.get("/"), checked.get("/statistics")):
        (said,) = re.findall(r"<b>(Unlike [^<]+?)\.?</b>", html)
        assert said.startswith("Unlike the data it was checked on since ")
        assert "brightness" in html
    assert since.split(",")[0] in [f"{datetime.now(UTC) - timedelta(days=back):%A}" for back in range(7)]
    metrics = checked.get("/metrics")
    assert "cxr_drift_alarm 1\n" in metrics
    found = re.findall(r'cxr_drift_psi\{property="brightness",days="(\d+)"\} ([\d.]+)', metrics)
    assert [days for days, _ in found] == ["7", "30"]
    assert all(float(psi) > 0.25 for _, psi in found)


def test_the_same_figures_for_programs(checked: Page) -> None:
    unlike(checked)
    found = json.loads(checked.get("/api/statistics?period=12m"))
    assert (found["period"], len(found["spans"]), found["total"]["verdicts"]) == ("12m", 12, 140)
    assert found["total"]["answers"] == {"pneumonia": 140}
    assert found["total"]["mean_probability"] == pytest.approx(0.9)
    assert found["drift"]["since"]
    short = {one["name"]: one for one in found["drift"]["short"]}
    assert (short["brightness"]["level"], short["contrast"]["level"]) == ("shift", "few")
    assert short["brightness"]["groups"][-1]["actual"] == 1
    assert "wrong `period`" in json.loads(checked.get("/api/statistics?period=1d", 400))["error"]
    assert "wrong `period`" in checked.get("/statistics?period=1d", 400)


def test_agreement_with_readers_follows_their_answers(page: Page) -> None:
    for name in ("a", "b", "c"):
        page.judged(f"{name}.jpeg", b"P")
    for name, said in (("a", "agreed"), ("b", "disagreed"), ("c", "unsure"), ("b", "agreed")):
        row = page.index.get(f"inbox/{name}.jpeg")
        assert row
        page.index.review(row.key, Reviewed(row.verdict_etag, said))  # type: ignore[arg-type]
    whole = json.loads(page.get("/api/statistics"))["total"]
    assert (whole["reviews"], whole["agreement"]) == ({"agreed": 2, "unsure": 1}, 1)
    page.store.purge("inbox/a.jpeg")
    page.judged("a.jpeg", b"P2")  # a new verdict, which nobody has read
    whole = json.loads(page.get("/api/statistics"))["total"]
    assert whole["reviews"] == {"agreed": 1, "unread": 1, "unsure": 1}
    html = page.get("/statistics")
    assert "with 1 verdict;" in html
    assert html.count("<g><title>") == 5 * 30


def test_earlier_verdicts_of_a_replaced_file_are_shown(page: Page) -> None:
    etag = page.judged("a.jpeg", b"P1")
    assert "Earlier verdicts" not in page.xray("a.jpeg")
    page.store.purge("inbox/a.jpeg")
    page.judged("a.jpeg", b"N2 atypical")
    page.store.purge("inbox/a.jpeg")
    page.judged("a.jpeg", b"bad")
    html = page.xray("a.jpeg")
    part = html[html.index('id="earlier"') : html.index('id="json"')]
    assert re.findall(r'class="state is-(\w+)"', part) == ["uncertain", "pneumonia"]
    assert "100%" in part.replace(".0", "")
    assert "No call: too unlike the training images." in part
    assert part.count("An earlier file") == 2
    (link,) = [one for one in re.findall(r'href="([^"]+)"', part) if etag in one]
    with page.client.get(unescape(link)) as answer:
        assert answer.data == b"preview of P1"
    found = json.loads(page.get("/api/verdicts/a.jpeg"))["verdict"]["earlier"]
    assert [one["label"] for one in found] == ["uncertain", "pneumonia"]
    stored = page.store.get(verdict_key("inbox/a.jpeg"), LIMIT)
    assert stored
    planted = json.loads(stored[1])
    planted["earlier"][0] |= {"label": None, "thresholds": None, "warnings": [], "probability": 0.5}
    page.store.put(
        verdict_key("inbox/a.jpeg"), Verdict.from_json(json.dumps(planted).encode()).to_json(), stored[0].etag
    )
    page.xray("a.jpeg")
