"""Reviews on the page and in its interface, and what blind mode hides."""

import csv
import io
import json
import re
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from pipeline.records import Row
from pipeline.reviews.kept import read_reviews
from tests.support.webpage import MAX_UPLOAD, Page
from tests.web.test_access import USERS, basic
from web.access import Access
from web.app import create_page

NAMES = ("a.jpeg", "ward 3/b.jpeg", "c.jpeg", "d.jpeg")


@pytest.fixture
def page(page: Page) -> Page:
    """Provide four X-rays on the page, the first on top."""
    for name, data in reversed(list(zip(NAMES, (b"P1", b"N1", b"P atypical", b"bad"), strict=True))):
        page.judged(name, data)
    return page


def row(page: Page, name: str) -> Row:
    found = page.index.get(f"inbox/{name}")
    assert found
    return found


def say(page: Page, said: str, name: str = "a.jpeg", query: str = "", **form: str) -> str:
    """Send the form as a browser does, and return where it leads."""
    fields = {"verdict": row(page, name).verdict_etag, "said": said, **form}
    with page.client.post(f"/xray/{quote(name)}{query}", data=fields) as answer:
        assert answer.status_code == 303, answer.get_data(as_text=True)
        return str(answer.headers["Location"])


def post(page: Page, name: str, code: int = 201, **body: object) -> dict[str, object]:
    with page.client.post(f"/api/verdicts/{quote(name)}/reviews", json=body) as answer:
        assert answer.status_code == code, answer.get_data(as_text=True)
        found: dict[str, object] = answer.get_json()
        return found


def test_an_answer_leads_to_the_next_xray_and_can_be_undone(page: Page) -> None:
    following = say(page, "agree", note="clear")
    assert following == "/xray/ward%203/b.jpeg?last=a.jpeg"
    shown = page.get(following)
    assert "saved. You see pneumonia; the network says pneumonia." in " ".join(shown.split())
    assert row(page, "a.jpeg").review == "agreed"
    assert say(page, "withdrawn") == "/xray/a.jpeg"
    assert row(page, "a.jpeg").review == "unread"
    assert "last=" in say(page, "disagree", "ward 3/b.jpeg", "?review=unread")


def test_the_next_one_is_that_of_the_view(page: Page) -> None:
    say(page, "agree", "ward 3/b.jpeg")
    where = say(page, "agree", "a.jpeg", "?review=unread&order=triage")
    assert where == "/xray/c.jpeg?review=unread&order=triage&last=a.jpeg"
    last = say(page, "unsure", "c.jpeg", "?state=uncertain")
    assert last == "/xray/c.jpeg?state=uncertain&last=c.jpeg"
    assert "There is nothing more to review in this list." in page.get(last)
    assert say(page, "unsure", "c.jpeg", "?state=uncertain&stay=1") == "/xray/c.jpeg?state=uncertain"


def test_the_next_one_has_a_finding(page: Page) -> None:
    for name, data in (("e.jpeg", b"N4"), ("waits.jpeg", b"P5"), ("bad.jpeg", b"bad"), ("top.jpeg", b"P6")):
        page.judged(name, data)
    page.index.wait(["inbox/waits.jpeg"], datetime.now(UTC))
    for query in ("", "?state=normal&state=rejected&state=waiting"):
        assert "/xray/e.jpeg?" in say(page, "unsure", "top.jpeg", query)
    assert "/xray/a.jpeg?" in say(page, "agree", "top.jpeg", "?order=triage")
    assert "/xray/c.jpeg?last=c.jpeg" in say(page, "unsure", "c.jpeg")  # the rest was rejected
    assert "/xray/c.jpeg?" in say(page, "unsure", "c.jpeg", "?state=rejected")


def test_undo_keeps_the_note_for_the_next_answer(page: Page) -> None:
    for said, note in (("agree", "first"), ("withdrawn", ""), ("disagree", "left & <b>low</b>")):
        say(page, said, note=note)
    assert say(page, "withdrawn", note="gone") == "/xray/a.jpeg"
    shown = page.xray("a.jpeg")
    assert 'value="left &amp; &lt;b&gt;low&lt;/b&gt;"' in shown
    assert 'id="note-save"' not in shown
    assert 'class="readings"' not in shown
    say(page, "agree")  # the field was emptied before it
    say(page, "withdrawn")
    assert "left &amp;" not in page.xray("a.jpeg")


def test_an_uncertain_verdict_asks_what_the_reader_sees(page: Page) -> None:
    shown = page.xray("c.jpeg")
    assert 'value="not_pneumonia"' in shown
    assert 'value="agree"' not in shown
    etag = row(page, "c.jpeg").verdict_etag
    with page.client.post("/xray/c.jpeg", data={"verdict": etag, "said": "agree"}) as answer:
        assert answer.status_code == 409
    say(page, "not_pneumonia", "c.jpeg")
    assert row(page, "c.jpeg").review == "decided"
    assert 'id="review"' not in page.xray("d.jpeg")  # rejected: there is no finding


def test_a_verdict_that_changed_meanwhile_is_shown_again(page: Page) -> None:
    old = row(page, "a.jpeg").verdict_etag or ""
    page.store.delete("inbox/a.jpeg")
    page.judged("a.jpeg", b"N2")
    where = say(page, "agree", "a.jpeg", verdict=old)
    assert "Your answer was not saved: look again." in page.get(where)
    problem = post(page, "a.jpeg", 409, verdict_etag=old, said="agree")
    assert "look again" in str(problem["error"])
    assert read_reviews(page.store, "inbox/a.jpeg") == []


def test_reviews_of_a_replaced_xray_are_shown_as_such(page: Page) -> None:
    say(page, "disagree", note="a <b>shadow</b>")
    page.store.delete("inbox/a.jpeg")
    page.judged("a.jpeg", b"N2")
    shown = page.xray("a.jpeg")
    assert "You disagreed with the earlier verdict (pneumonia)" in re.sub("<[^>]+>", "", shown)
    assert "a &lt;b&gt;shadow&lt;/b&gt;" in shown
    assert 'id="undo"' not in shown
    assert row(page, "a.jpeg").review == "unread"


def test_the_interface_keeps_and_lists_them(page: Page) -> None:
    etag = json.loads(page.get("/api/verdicts/a.jpeg"))["item"]["verdict_etag"]
    review = post(page, "a.jpeg", verdict_etag=etag, said="not_pneumonia", note="why", blind=True)
    assert (review["answer"], review["blind"], review["schema"]) == ("disagree", True, "cxr-inbox/review/1")
    found = json.loads(page.get("/api/verdicts/a.jpeg/reviews"))
    assert found == {"verdict_etag": etag, "review": "disagreed", "reviews": [review]}
    items = json.loads(page.get("/api/verdicts?review=disagreed&review=unsure"))["items"]
    assert [(item["key"], item["review"], item["reviewers"]) for item in items] == [
        ("inbox/a.jpeg", "disagreed", [""])
    ]
    rows = list(csv.DictReader(io.StringIO(page.get("/api/verdicts.csv"), newline="")))
    assert [one["review"] for one in rows] == ["disagreed", "unread", "unread", ""]
    assert json.loads(page.get("/api/status"))["reviews"]["disagreed"] == 1
    for body in ({}, {"verdict_etag": etag}, {"verdict_etag": etag, "said": "maybe"}):
        post(page, "a.jpeg", 400, **body)
    for note in ("x" * 501, "a\nb", "\x00"):
        post(page, "a.jpeg", 400, verdict_etag=etag, said="agree", note=note)
    post(page, "nothing", 404, verdict_etag=etag, said="agree")
    page.get("/api/verdicts/nothing/reviews", 404)


def test_a_file_called_reviews_keeps_its_address(page: Page) -> None:
    page.judged("folder/reviews", b"P1")
    assert json.loads(page.get("/api/verdicts/folder/reviews"))["item"]["key"] == "inbox/folder/reviews"


@pytest.mark.parametrize("note", ["x" * 501, "two\nlines", "\x1b[0m"])
def test_a_note_that_cannot_be_kept_is_refused(page: Page, note: str) -> None:
    fields = {"verdict": row(page, "a.jpeg").verdict_etag, "said": "agree", "note": note}
    with page.client.post("/xray/a.jpeg", data=fields) as answer:
        assert answer.status_code == 409
        assert "A note is one line" in answer.get_data(as_text=True)


def test_another_site_cannot_answer(page: Page) -> None:
    fields = {"verdict": row(page, "a.jpeg").verdict_etag, "said": "agree"}
    for address in ("/xray/a.jpeg", "/api/verdicts/a.jpeg/reviews", "/blind"):
        with page.client.post(address, data=fields, headers={"Sec-Fetch-Site": "cross-site"}) as answer:
            assert answer.status_code == 403
    assert row(page, "a.jpeg").review == "unread"


def test_two_readers_by_name(page: Page) -> None:
    app = create_page(page.store, page.index, MAX_UPLOAD, access=Access(users=USERS))
    client = app.test_client()
    etag = row(page, "a.jpeg").verdict_etag
    names = list(USERS)[:2]
    for name, said in zip(names, ("agree", "disagree"), strict=False):
        fields = {"verdict": etag, "said": said, "note": f"by {name}"}
        assert client.post("/xray/a.jpeg", data=fields, headers=basic(name)).status_code == 303
    shown = client.get("/", headers=basic(names[0])).get_data(as_text=True)
    assert names[0] in shown
    assert client.post("/xray/a.jpeg", data={"verdict": etag, "said": "agree"}).status_code == 401


HIDDEN = re.compile(
    r"is-(?:pneumonia|normal|uncertain)|data-state=\"(?:pneumonia|normal|uncertain)"
    r"|atypical|No call|100%|Probability|map-data|typicality|\"finding\"|dicom-download|agreed|is-read"
)


@pytest.mark.parametrize(
    "path", ["/", "/?state=pneumonia&order=triage&review=agreed", "/xray/a.jpeg", "/xray/c.jpeg"]
)
def test_blind_mode_leaves_nothing_to_find(page: Page, path: str) -> None:
    app = create_page(page.store, page.index, MAX_UPLOAD, access=Access(users=USERS))
    for name in ("a.jpeg", "c.jpeg"):  # by another reader
        word = {"verdict_etag": row(page, name).verdict_etag, "said": "pneumonia", "note": "agreed by me"}
        address = f"/api/verdicts/{name}/reviews"
        assert app.test_client().post(address, json=word, headers=basic("ada")).status_code == 201
    plain = page.get(path)
    assert HIDDEN.search(plain)
    assert page.client.post("/blind", data={"on": "1"}).status_code == 303
    shown = re.sub('data-view="[^"]*"', "", page.get(path))  # the address that was asked for
    assert HIDDEN.findall(shown) == []
    assert "ada" not in shown
    assert shown.count(">Hidden<") == (3 if path.startswith("/?") or path == "/" else 0)
    page.client.post("/blind", data={"on": "0"})
    assert page.get(path).split() == plain.split()


def test_in_blind_mode_a_verdict_is_shown_after_the_answer(page: Page) -> None:
    page.client.post("/blind", data={"on": "1"})
    following = say(page, "not_pneumonia", "a.jpeg", "?state=pneumonia&order=triage")
    assert following == "/xray/ward%203/b.jpeg?last=a.jpeg"  # neither by label nor in an order by it
    (review,) = read_reviews(page.store, "inbox/a.jpeg")
    assert (review.answer, review.blind) == ("disagree", True)
    assert "the network says pneumonia" in page.get(following)
    assert "map-data" in page.xray("a.jpeg")
    assert 'data-state="pneumonia"' in page.get("/")
    say(page, "withdrawn", "a.jpeg")
    assert "map-data" in page.xray("a.jpeg")  # it was seen
    say(page, "agree", "a.jpeg")
    assert read_reviews(page.store, "inbox/a.jpeg")[-1].blind is False


def test_a_row_that_is_judged_again_stays_hidden(page: Page) -> None:
    page.client.post("/blind", data={"on": "1"})
    found = row(page, "a.jpeg")
    assert found.finished_at
    page.index.wait(["inbox/a.jpeg"], found.finished_at)
    for shown in (page.get("/"), page.xray("a.jpeg")):
        assert HIDDEN.findall(shown) == []
        assert "last: pneumonia" not in shown
