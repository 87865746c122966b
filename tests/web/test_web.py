"""The content of the page, through Flask's client."""

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from html import escape, unescape
from typing import get_args

import pytest

from pipeline.classify import line as line_of
from pipeline.intake import record_verdict
from pipeline.judge import give_up
from pipeline.names import verdict_key
from pipeline.records import Job
from pipeline.verdict import DOUBTS, NOTICE, Label, ReasonCode, Verdict, Warning
from tests.support.fakes import LIMIT, SAMPLES
from tests.support.webpage import HOSTILE, NOW, RELEASE, UNICODE, Page
from web import wording


def rows(html: str) -> list[str]:
    return re.findall(r'<li class="row.*?</li>', html, re.DOTALL)


def keys(html: str) -> list[str]:
    return [unescape(key) for key in re.findall(r'data-key="(.*?)"', html, re.DOTALL)]


# The worklist


def test_an_empty_worklist_says_what_to_do(page: Page) -> None:
    html = page.get("/")
    assert "Drop a chest X-ray into <code>data/inbox</code>, or upload one here." in html
    assert NOTICE in html


def test_the_worklist_has_every_state_newest_first(page: Page) -> None:
    names = ["sick.jpeg", "healthy.jpeg", "bad.jpeg"]
    for age, (name, data) in enumerate(zip(names, (b"P", b"N", b"bad"), strict=True)):
        page.judged(name, data)
        page.finished(name, NOW - timedelta(minutes=age))
    page.store.put("inbox/boom.jpeg", b"boom", None)
    give_up(page.store, RELEASE, Job("inbox/boom.jpeg"), "internal", "Drop it again.")
    record_verdict(verdict_key("inbox/boom.jpeg"), page.store, page.index)
    page.finished("boom.jpeg", NOW - timedelta(hours=1))
    page.index.wait(["inbox/new.jpeg"], NOW + timedelta(seconds=1))

    html = page.get("/")
    assert keys(html) == [f"inbox/{name}" for name in ["new.jpeg", *names, "boom.jpeg"]]
    words = [re.search(r'class="state is-(\w+)"', row) for row in rows(html)]
    assert [word[1] for word in words if word] == ["waiting", "pneumonia", "normal", "rejected", "failed"]
    assert "5 X-rays, 1 waiting, 1 pneumonia, 1 normal, 1 rejected, 1 failed." in html
    assert "It is damaged. Export it again." in rows(html)[3]
    assert 'datetime="2025-11-23T02:00:00+00:00"' in rows(html)[1]
    assert "2025-11-23 02:00:00 UTC" in rows(html)[1]
    assert "100%" in rows(html)[1]
    assert 'loading="lazy"' in rows(html)[1]


def test_the_bar_has_the_thresholds_of_its_verdict(page: Page) -> None:
    page.judged("a.jpeg", b"P")
    (row,) = rows(page.get("/"))
    assert re.findall(r'class="(\w+)" (?:x="|y="4" width=")([\d.]+)%', row) == [
        ("track", "100"),
        ("fill", "100.00"),
        ("cut", "40.00"),
        ("cut", "60.00"),
    ]


def test_the_address_holds_the_view(page: Page) -> None:
    for name, data in (("sick.jpeg", b"P"), ("healthy.jpeg", b"N"), ("bad.jpeg", b"bad")):
        page.judged(f"ward/{name}", data)
    html = page.get("/?state=pneumonia&state=rejected&search=ward&order=triage")
    assert keys(html) == ["inbox/ward/sick.jpeg", "inbox/ward/bad.jpeg"]
    links = [unescape(link) for link in re.findall(r'class="chip[^"]*" href="(.*?)"', html)]
    assert links[0] == "/?search=ward&order=triage"
    assert links[3] == "/?state=rejected&search=ward&order=triage"  # pneumonia is on, and goes off
    assert links[5] == "/?state=pneumonia&state=normal&state=rejected&search=ward&order=triage"
    assert html.count('aria-current="true"') == 3
    opened = unescape(html.split('class="name" href="')[1].split('"')[0])
    assert opened == "/xray/ward/sick.jpeg?state=pneumonia&state=rejected&search=ward&order=triage"
    xray = page.get(opened)
    assert 'id="previous"' not in xray
    following = re.search(r'id="next" href="(.*?)"', xray)
    assert following
    assert unescape(following[1]) == opened.replace("sick", "bad")


def test_nothing_found_is_said_with_what_was_asked(page: Page) -> None:
    page.judged("a.jpeg", b"P")
    html = page.get("/?search=<b>&state=failed&state=waiting")
    assert "None of the 1 X-ray has “<bdi>&lt;b&gt;</bdi>” in its name and is waiting or failed." in html


def test_pages_lead_on_and_back(page: Page) -> None:
    for number in range(120):
        page.index.wait([f"inbox/{number}.jpeg"], NOW - timedelta(seconds=number))
    seen, address = [], "/"
    for _ in range(3):
        html = page.get(address)
        seen += keys(html)
        following = re.search(r'rel="next" href="(.*?)"', html)
        address = unescape(following[1]) if following else ""
    assert seen == [f"inbox/{number}.jpeg" for number in range(120)]
    assert not address
    back = re.search(r'rel="prev" href="(.*?)"', html)
    assert back
    middle = page.get(unescape(back[1]))
    assert keys(middle) == seen[50:100]
    opened = page.get(unescape(middle.split('class="name" href="')[1].split('"')[0]))
    to_list = re.search(r'id="back" href="(.*?)"', opened)
    assert to_list
    assert keys(page.get(unescape(to_list[1]))) == seen[50:100]
    first = re.search(r'rel="prev" href="(.*?)"', middle)
    assert first
    page.index.wait(["inbox/new.jpeg"], NOW + timedelta(seconds=1))
    assert keys(page.get(unescape(first[1]))) == seen[:50]  # new ones do not push the others about
    page.index.remove("nothing")
    page.index.settle("inbox/new.jpeg", NOW + timedelta(seconds=1))
    assert keys(page.get(unescape(first[1]))) == seen[:50]
    assert 'rel="prev"' not in page.get(unescape(first[1]))


def test_a_name_that_an_address_cannot_hold_is_text_alone(page: Page) -> None:
    page.index.wait(["inbox/a/../b.jpeg"], NOW)
    html = page.get("/")
    assert "<bdi>a/../b.jpeg</bdi>" in html
    assert "/xray/" not in html


def test_the_chart_of_a_day(page: Page) -> None:
    page.judged("a.jpeg", b"P")
    page.judged("b.jpeg", b"N")
    html = page.get("/")
    assert "Verdicts in the last 24 hours: 2 in total" in html
    assert html.count('<rect class="is-pneumonia"') == html.count('<rect class="is-normal"') == 1


def test_a_deleted_source_and_a_newer_file_are_said(page: Page) -> None:
    for name in ("gone.jpeg", "again.jpeg"):
        page.judged(name, b"P")
    page.index.mark("inbox/gone.jpeg", "deleted")
    page.index.wait(["inbox/again.jpeg"], datetime.now(UTC) + timedelta(minutes=1))
    row = dict(zip(keys(page.get("/")), rows(page.get("/")), strict=True))
    assert "file deleted" in row["inbox/gone.jpeg"]
    assert "is-waiting" in row["inbox/again.jpeg"]
    assert "last: pneumonia" in row["inbox/again.jpeg"]
    assert "The file was deleted from the inbox." in page.xray("gone.jpeg")
    assert "dropped again or replaced" in page.xray("again.jpeg")


@pytest.mark.parametrize("name", [HOSTILE, UNICODE, "a\nb#?%\\;.jpeg", "ward 3/with space.jpeg"])
def test_any_name_is_shown_as_text_and_can_be_opened(page: Page, name: str) -> None:
    page.judged(name, b"P")
    html = page.get("/")
    assert "<img src=x" not in html
    assert keys(html) == [f"inbox/{name}"]
    link = re.search(r'class="name" href="(.*?)"', html)
    picture = re.search(r'<img src="(/preview/.*?)"', html)
    assert link
    assert picture
    opened = page.get(unescape(link[1]))
    assert "<img src=x" not in opened
    assert escape(name).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in opened
    with page.client.get(unescape(picture[1])) as answer:
        assert answer.data == b"preview of P"


# One X-ray


def test_one_xray_has_map_and_the_whole_verdict(page: Page) -> None:
    etag = page.judged("ward/a.jpeg", b"P")
    html = page.xray("ward/a.jpeg")
    assert f'src="/preview/ward/a.jpeg?v={etag}"' in html
    data = re.search(r'<script type="application/json" id="map-data">(.*?)</script>', html)
    assert data
    assert json.loads(data[1]) == {"grid": [[0.0]], "box": [0.0, 0.0, 1.0, 1.0]}
    text = re.search(r'<pre id="json-text".*?>(.*?)</pre>', html, re.DOTALL)
    assert text
    found = page.store.get(verdict_key("inbox/ward/a.jpeg"), LIMIT)
    assert found
    assert unescape(text[1]).encode() == found[1]
    for said in (
        "100.0%",
        "40%",
        "60%",
        "Assumes 50% of your patients",
        "fake 1",
        "decode 1.0 ms",
        "image/jpeg",
        "100 \u00d7 80",
        NOTICE,
    ):
        assert said in html


def test_a_verdict_without_a_preview_has_its_page(page: Page) -> None:
    """Text in the image may name the patient: an icon replaces the preview, and the page says why."""
    page.judged("a.dcm", b"P burned_in_text")
    html = page.xray("a.dcm")
    assert "No preview: text in it may name the patient" in html
    assert wording.WARNINGS["burned_in_text"] in html
    assert "map-data" not in html
    (row,) = rows(page.get("/"))
    assert "/preview/" not in row
    assert "100%" in row
    page.get("/preview/a.dcm", 404)


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_doubt_is_said_in_the_worklist_too(page: Page, doubt: Warning) -> None:
    page.judged("a.dcm", f"P {doubt}".encode())
    (row,) = rows(page.get("/"))
    assert wording.WARNINGS[doubt] in unescape(row)
    html = unescape(page.xray("a.dcm"))
    for said in (row, html):  # a probability that means nothing is not shown
        assert "%" not in said.replace("width: 100%", "")
        assert 'class="bar' not in said
        assert 'class="gauge' not in said
    (line,) = csv.DictReader(io.StringIO(page.get("/api/verdicts.csv")))
    assert (line["label"], line["probability"]) == ("uncertain", "")
    verdict = Verdict.model_validate(json.loads(page.get("/api/verdicts/a.dcm"))["verdict"])
    assert verdict.finding
    assert verdict.finding.probability > 0.9  # programs have it
    assert line_of(verdict) == f"inbox/a.dcm: uncertain, {doubt.replace('_', ' ')}"
    assert wording.WARNINGS[doubt] in html
    assert wording.UNDECIDED in html
    assert wording.LABELS["uncertain"] not in html


def test_an_unknown_age_is_said_once_in_the_worklist_and_on_its_page(page: Page) -> None:
    page.judged("a.jpeg", b"P age_unknown")
    assert wording.WARNINGS["age_unknown"] in unescape(page.xray("a.jpeg"))
    (row,) = rows(page.get("/"))
    assert "age unknown" not in row
    assert page.get("/").count("does not state the patient") == 1


def test_an_unknown_age_needs_no_word_where_there_is_no_label_to_trust(page: Page) -> None:
    page.judged("a.jpeg", b"P atypical age_unknown")
    assert wording.WARNINGS["age_unknown"] not in unescape(page.xray("a.jpeg"))
    assert "does not state the patient" not in page.get("/")


def test_a_rejected_xray_shows_the_sentence(page: Page) -> None:
    page.judged("bad.jpeg", b"bad")
    html = page.xray("bad.jpeg")
    assert '<p class="reason">It is damaged. Export it again.</p>' in html
    assert "map-data" not in html


def test_a_waiting_xray_has_a_page(page: Page) -> None:
    page.index.wait(["inbox/a.jpeg"], NOW)
    assert "The verdict will appear on this page." in page.xray("a.jpeg")


def test_a_damaged_or_missing_verdict_is_said(page: Page) -> None:
    page.judged("bad.jpeg", b"bad")
    there = page.store.head(verdict_key("inbox/bad.jpeg"))
    assert there
    page.store.put(verdict_key("inbox/bad.jpeg"), b"{}", there.etag)
    assert "This release of the page cannot read the verdict" in page.xray("bad.jpeg")
    page.store.delete(verdict_key("inbox/bad.jpeg"))
    html = page.xray("bad.jpeg")
    assert "The outbox holds no verdict for this name" in html
    assert "It is damaged. Export it again." in html


def test_an_unknown_xray_says_what_to_do(page: Page) -> None:
    html = page.xray("nothing.jpeg", 404)
    assert "No X-ray with this name is in the worklist." in html
    assert "Go to the worklist" in html


# Words


def test_every_code_has_its_words() -> None:
    assert set(wording.REASONS) == set(get_args(ReasonCode))
    assert set(wording.WARNINGS) == set(get_args(Warning))
    assert set(wording.LABELS) == set(get_args(Label))


@pytest.mark.parametrize(
    ("share", "digits", "words"),
    [
        (0, 0, "0%"),
        (0.004, 0, "< 1%"),
        (0.137, 0, "14%"),
        (0.996, 0, "> 99%"),
        (1, 0, "100%"),
        (0.996, 1, "99.6%"),
    ],
)
def test_a_percentage_never_says_more_than_is_known(share: float, digits: int, words: str) -> None:
    assert wording.percent(share, digits) == words


def test_the_first_page_says_that_the_samples_are_synthetic_until_there_is_an_own_one(page: Page) -> None:
    line = "These X-rays are synthetic."
    assert line not in page.get("/")
    for path in SAMPLES.iterdir():
        if path.is_file():
            page.judged(path.name, path.read_bytes())
    assert set(wording.SAMPLES) == {f"inbox/{path.name}" for path in SAMPLES.iterdir() if path.is_file()}
    assert line in page.get("/")
    assert line not in page.get("/?state=normal")
    assert line not in page.get("/?limit=3")
    page.judged("mine.jpeg", b"N")
    assert line not in page.get("/")


def test_a_persons_own_x_ray_with_the_name_of_a_sample_is_no_sample(page: Page) -> None:
    page.judged("normal-1.jpeg", b"N")
    assert "These X-rays are synthetic." not in page.get("/")
