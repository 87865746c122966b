"""Acting on selected X-rays: export, judge again, forget."""

import csv
import io
import json
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from flask.testing import FlaskClient

from pipeline.errors import NoResult, StoreError
from pipeline.forget import erase_xrays
from pipeline.names import report_id
from pipeline.records import DicomObject
from tests.support.webpage import HOSTILE, MAX_UPLOAD, Page
from tests.web.test_audit import SECRET, lines
from tests.web.test_web_upload import failed
from web.acting import routes
from web.app import create_page
from web.audit import Audit

LINES = "two\r\nlines.jpeg"


class Maker:
    """Make a result of each X-ray but one."""

    def make(self, key: str, etag: str | None = None) -> list[DicomObject]:
        if key == "inbox/a.jpeg":
            raise NoResult("it is no DICOM file")
        return [DicomObject("report", "1.2", b"made of " + key.encode())]


def acting(page: Page, audit: Audit | None = None) -> FlaskClient:
    """Return a client of the page that may forget and make results."""
    erase = partial(erase_xrays, store=page.store, index=page.index, quiet=0)
    options: dict[str, Any] = {"results": Maker(), "eraser": erase, "audit": audit}
    return create_page(page.store, page.index, MAX_UPLOAD, **options).test_client()


def ids(*names: str) -> list[str]:
    return [report_id(f"inbox/{name}") for name in names]


@pytest.fixture
def names(page: Page) -> list[str]:
    names = ["a.jpeg", "b.jpeg", HOSTILE, LINES]
    for name in names:
        page.judged(name, b"P" + name.encode())
    return names


def test_those_selected_are_in_the_table(page: Page, names: list[str]) -> None:
    answer = acting(page).post("/selected/csv", data={"xray": ids("a.jpeg", LINES)})
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["key"] for row in rows] == ["inbox/a.jpeg", f"inbox/{LINES}"]
    whole = acting(page).post("/selected/csv?state=pneumonia", data={"all": "1", "xray": ids("a.jpeg")})
    assert (whole.status_code, whole.location) == (303, "/api/verdicts.csv?state=pneumonia")


@pytest.mark.parametrize("where", ["csv", "again", "dicom", "forget"])
def test_nothing_selected_and_too_many(page: Page, names: list[str], where: str) -> None:
    client = acting(page)
    assert "at least one" in client.post(f"/selected/{where}").text
    many = client.post(f"/selected/{where}", data={"xray": [str(number) for number in range(501)]})
    assert (many.status_code, "at most 500" in many.text) == (400, True)
    assert client.post(f"/selected/{where}", json={"keys": []}).status_code == 400
    assert client.post(f"/selected/{where}", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_results_in_one_archive_with_what_is_missing(
    page: Page, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = acting(page)
    answer = client.post("/selected/dicom", data={"xray": ids("a.jpeg", "b.jpeg", LINES)})
    archive = ZipFile(io.BytesIO(answer.data))
    assert archive.namelist() == ["02/report-1.2.dcm", "03/report-1.2.dcm", "without a result.txt"]
    assert archive.read("without a result.txt") == b"a.jpeg: it is no DICOM file\n"
    assert "no-store" in answer.headers["Cache-Control"]
    assert client.post("/selected/dicom", data={"xray": ids("a.jpeg")}).status_code == 409
    monkeypatch.setattr(routes, "MOST_RESULTS", 2)
    assert "at most 2" in client.post("/selected/dicom", data={"all": "1"}).text


def test_only_failed_ones_are_judged_again(page: Page, names: list[str]) -> None:
    key = failed(page, "failed.jpeg")
    client = acting(page)
    html = client.post("/selected/again", data={"xray": [*ids("a.jpeg", "failed.jpeg"), "0" * 32]}).text
    assert "1 of 3 will be judged again" in html
    assert "a.jpeg: This X-ray did not fail" in html
    alone = client.post("/selected/again?state=failed", data={"xray": ids("failed.jpeg")})
    assert (alone.status_code, alone.location) == (303, "/?state=failed")
    told = client.post(
        "/selected/again", json={"keys": [key, "inbox/\ud800"]}, headers={"Accept": "application/json"}
    )
    assert (told.status_code, told.json["asked"], told.json["done"]) == (202, 2, 1)  # type: ignore[index]


def test_forget_asks_first_and_names_the_count(page: Page, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    client = acting(page, Audit(path, SECRET))
    asked = client.post("/selected/forget", data={"xray": ids("a.jpeg", HOSTILE, LINES)})
    assert "Forget these 3 X-rays?" in asked.text
    assert HOSTILE not in asked.text
    assert set(page.inbox()) == set(names)
    wrong = client.post("/selected/forget", data={"xray": ids("a.jpeg"), "count": "3"})
    assert (wrong.status_code, set(page.inbox())) == (400, set(names))
    done = client.post("/selected/forget", data={"xray": ids("a.jpeg", HOSTILE, LINES), "count": "3"})
    assert "3 X-rays were forgotten" in done.text
    assert set(page.inbox()) == {"b.jpeg"}
    assert [row.key for row in page.index.all()] == ["inbox/b.jpeg"]
    assert [info.key for info in page.store.list("outbox/") if not info.key.startswith("outbox/.")] == [
        "outbox/b.jpeg.json"
    ]
    assert [(line["action"], line["result"]) for line in lines(path)] == [("forget", "done")] * 3
    gone = client.post("/selected/forget", data={"xray": ids("a.jpeg")})
    assert gone.status_code == 404


def test_forget_tells_what_was_left(page: Page, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    purge = page.store.purge

    def refusing(key: str) -> int:
        if key == "inbox/a.jpeg":
            raise StoreError("the folder cannot be written to")
        return purge(key)

    monkeypatch.setattr(page.store, "purge", refusing)
    client, keys = acting(page), ["inbox/a.jpeg", "inbox/b.jpeg", "inbox/none.jpeg"]
    asked = {"json": {"keys": keys, "count": 3}, "headers": {"Accept": "application/json"}}
    told = json.loads(client.post("/selected/forget", **asked).text)
    assert told == {
        "asked": 3,
        "done": 1,
        "problems": [
            {"key": "inbox/a.jpeg", "error": "It was not erased: the folder cannot be written to."},
            {"key": "inbox/none.jpeg", "error": "It is not in the worklist."},
        ],
    }
    html = client.post("/selected/forget", data={"xray": ids("a.jpeg", LINES), "count": "2"}).text
    assert "1 of 2 was forgotten" in html
    assert "a.jpeg: It was not erased: the folder cannot be written to." in html
    assert client.post("/selected/forget", json={"keys": keys}, headers=asked["headers"]).status_code == 400


def test_of_a_whole_view_only_the_first_are_taken(
    page: Page, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.acting.selection.MOST_SELECTED", 2)
    html = acting(page).post("/selected/forget?search=jpeg", data={"all": "1"}).text
    assert "Forget these 2 X-rays?" in html
    assert "The filter has 4 hits. These are the first 2" in html


def test_a_page_that_may_not_forget_does_not_offer_it(page: Page, names: list[str]) -> None:
    assert "act-forget" not in page.get("/")
    assert page.client.post("/selected/forget", data={"xray": ids("a.jpeg")}).status_code == 404
    assert "act-forget" in acting(page).get("/").text


def test_only_so_many_at_once(page: Page, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_AT_ONCE", 0)
    assert acting(page).post("/selected/again", data={"xray": ids("a.jpeg")}).status_code == 503
    monkeypatch.undo()
    monkeypatch.setattr(routes, "_SECONDS", -1.0)
    key = failed(page, "failed.jpeg")
    assert "no time left" in acting(page).post("/selected/again", data={"xray": [report_id(key)]}).text
