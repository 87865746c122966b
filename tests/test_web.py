"""The page, asked by Flask's client, over a folder store and SQLite; its verdicts are by the real judge."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html import escape, unescape
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from pipeline.errors import StoreError
from pipeline.folder import FolderStore
from pipeline.intake import record_verdict
from pipeline.judge import Judge, give_up
from pipeline.names import preview_key, verdict_key
from pipeline.ports import Job, ObjectInfo
from pipeline.sqlite import SqliteIndex
from pipeline.verdict import NOTICE, Label, ReasonCode, Release, Warning
from tests.fakes import LIMIT, FakeEngine
from web import wording
from web.app import create_app
from web.upload import Refused, inbox_key

RELEASE = Release(number=1, version="test")
MAX_UPLOAD = 1000
NOW = datetime(2025, 11, 23, 2, 0, tzinfo=UTC)
HOSTILE = "<img src=x onerror=alert(1)>\"'&.jpeg"
UNICODE = "Röntgen 正面像 गोपनीय صورة " * 4 + "\u202egpj.jpeg"


@dataclass(frozen=True)
class Page:
    """The page, and what stands behind it."""

    client: FlaskClient
    store: FolderStore
    index: SqliteIndex

    def judged(self, name: str, data: bytes) -> str:
        """Drop a file and have it judged; returns its ETag."""
        key = f"inbox/{name}"
        etag = self.store.put(key, data, None)
        Judge(self.store, FakeEngine(), RELEASE, LIMIT).judge(Job(key))
        record_verdict(verdict_key(key), self.store, self.index)
        return etag

    def finished(self, name: str, moment: datetime) -> None:
        """Say when a row got its verdict."""
        row = self.index.get(f"inbox/{name}")
        assert row is not None
        self.index.record(replace(row, finished_at=moment))

    def get(self, address: str, code: int = 200, **options: object) -> str:
        with self.client.get(address, **options) as answer:
            assert answer.status_code == code, answer.get_data(as_text=True)
            return answer.get_data(as_text=True)

    def xray(self, name: str, code: int = 200) -> str:
        return self.get(f"/xray/{quote(name)}", code)

    def upload(
        self, *files: tuple[str, bytes], script: bool = True, headers: dict[str, str] | None = None
    ) -> TestResponse:
        accept = "application/json" if script else "text/html,*/*;q=0.8"
        fields = {"files": [(io.BytesIO(data), name) for name, data in files]}
        return self.client.post("/upload", data=fields, headers={"Accept": accept, **(headers or {})})

    def inbox(self) -> dict[str, bytes]:
        found = [self.store.get(info.key, LIMIT) for info in self.store.list("inbox/")]
        return {one[0].key.removeprefix("inbox/"): one[1] for one in found if one}


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    store, index = FolderStore(tmp_path / "data"), SqliteIndex(tmp_path / "index.sqlite")
    yield Page(create_app(store, index, MAX_UPLOAD).test_client(), store, index)
    index.close()


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
    assert "The image is damaged." in rows(html)[3]
    assert 'datetime="2025-11-23T02:00:00+00:00"' in rows(html)[1]
    assert "2025-11-23 02:00:00 UTC" in rows(html)[1]
    assert "100%" in rows(html)[1]
    assert 'loading="lazy"' in rows(html)[1]


def test_a_deleted_source_and_a_newer_file_are_said(page: Page) -> None:
    for name in ("gone.jpeg", "again.jpeg"):
        page.judged(name, b"P")
    page.index.mark("inbox/gone.jpeg", "deleted")
    page.index.wait(["inbox/again.jpeg"], datetime.now(UTC) + timedelta(minutes=1))
    row = dict(zip(keys(page.get("/")), rows(page.get("/")), strict=True))
    assert "source deleted" in row["inbox/gone.jpeg"]
    assert "is-waiting" in row["inbox/again.jpeg"]
    assert "last: pneumonia" in row["inbox/again.jpeg"]
    assert "The source was deleted." in page.xray("gone.jpeg")
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
        "where 50% of",
        "fake 1",
        "decode 1.0 ms",
        "image/jpeg",
        "100 \u00d7 80",
        NOTICE,
    ):
        assert said in html


def test_a_rejected_xray_shows_the_sentence(page: Page) -> None:
    page.judged("bad.jpeg", b"bad")
    html = page.xray("bad.jpeg")
    assert '<p class="reason">It is damaged. Export it again.</p>' in html
    assert "map-data" not in html


def test_a_waiting_xray_has_a_page(page: Page) -> None:
    page.index.wait(["inbox/a.jpeg"], NOW)
    assert "as soon as it is there" in page.xray("a.jpeg")


def test_a_damaged_or_missing_verdict_is_said(page: Page) -> None:
    page.judged("bad.jpeg", b"bad")
    there = page.store.head(verdict_key("inbox/bad.jpeg"))
    assert there
    page.store.put(verdict_key("inbox/bad.jpeg"), b"{}", there.etag)
    assert "cannot be read by this release" in page.xray("bad.jpeg")
    page.store.delete(verdict_key("inbox/bad.jpeg"))
    html = page.xray("bad.jpeg")
    assert "There is no verdict beside this name" in html
    assert "The image is damaged." in html


def test_an_unknown_xray_says_what_to_do(page: Page) -> None:
    html = page.xray("nothing.jpeg", 404)
    assert "No X-ray of this name is in the worklist." in html
    assert "Go to the worklist" in html


# The preview


def test_a_preview_is_kept_by_the_browser_for_ever(page: Page) -> None:
    etag = page.judged("a.jpeg", b"P")
    with page.client.get(f"/preview/a.jpeg?v={etag}") as answer:
        assert answer.data == b"preview of P"
        assert answer.mimetype == "image/jpeg"
        cache = answer.cache_control
        assert (cache.private, cache.immutable, cache.max_age) == (True, True, 365 * 24 * 3600)
        tag = answer.headers["ETag"]
    assert page.get(f"/preview/a.jpeg?v={etag}", 304, headers={"If-None-Match": tag}) == ""
    with page.client.get("/preview/a.jpeg") as answer:
        assert answer.data == b"preview of P"
        assert answer.cache_control.no_cache
        assert answer.cache_control.max_age is None


def test_a_preview_is_never_anything_else(page: Page) -> None:
    page.judged("bad.jpeg", b"bad")
    page.judged("a.jpeg", b"P")
    page.get("/preview/bad.jpeg", 404)
    page.get("/preview/nothing.jpeg", 404)
    for version in ("", "0" * 32, "../../../inbox/a", "x.jpg/../y"):
        page.get(f"/preview/a.jpeg?v={quote(version)}", 404)
    row = page.index.get("inbox/a.jpeg")
    assert row
    for forged in ("inbox/a.jpeg", verdict_key("inbox/a.jpeg"), preview_key("inbox/bad.jpeg", "0" * 32)):
        page.index.record(replace(row, preview_key=forged))
        page.get("/preview/a.jpeg", 404)


# Upload


def test_a_script_uploads_a_file_and_gets_its_key(page: Page) -> None:
    answer = page.upload(("ward 3/Röntgen.jpeg", b"P"))
    assert (answer.status_code, answer.json) == (200, {"key": "inbox/ward 3/Röntgen.jpeg"})
    assert page.inbox() == {"ward 3/Röntgen.jpeg": b"P"}


def test_the_form_uploads_many_files(page: Page) -> None:
    answer = page.upload(("a.jpeg", b"1"), ("b/c.jpeg", b"2"), script=False)
    assert (answer.status_code, answer.location) == (303, "/")
    assert page.inbox() == {"a.jpeg": b"1", "b/c.jpeg": b"2"}


def test_an_equal_file_is_the_same_and_another_gets_a_number(page: Page) -> None:
    uploads = [
        (b"1", "a.jpeg"),
        (b"1", "a.jpeg"),
        (b"2", "a (2).jpeg"),
        (b"3", "a (3).jpeg"),
        (b"2", "a (2).jpeg"),
    ]
    for data, name in uploads:
        assert page.upload(("a.jpeg", data)).json == {"key": f"inbox/{name}"}
    assert page.inbox() == {"a.jpeg": b"1", "a (2).jpeg": b"2", "a (3).jpeg": b"3"}


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpeg",
        "x/../../a.jpeg",
        "..\\a.jpeg",
        "/etc/a.jpeg",
        "a//b.jpeg",
        "./a.jpeg",
        "a/",
        "..",
        "a\x00b.jpeg",
        "a\x7f.jpeg",
        ".hidden",
        "x/.git/a.jpeg",
        "n" * 251,
        "name-not-usable/a.jpeg",
        "x.json/a.jpeg",
    ],
)
def test_names_that_lead_elsewhere_or_collide_are_refused(page: Page, name: str) -> None:
    answer = page.upload((name, b"P"))
    assert answer.status_code == 400
    assert answer.json
    assert re.fullmatch(r"(The|Hidden) .*\.", answer.json["error"])
    assert page.inbox() == {}


def test_the_folders_of_windows_are_folders() -> None:
    assert inbox_key("ward 3\\a.jpeg") == "inbox/ward 3/a.jpeg"
    with pytest.raises(Refused, match="not usable"):
        inbox_key("..\\a.jpeg")


def test_a_file_that_is_too_large_is_refused_alone(page: Page) -> None:
    assert page.upload(("a.jpeg", b"x" * MAX_UPLOAD)).status_code == 200
    answer = page.upload(("big.jpeg", b"x" * (MAX_UPLOAD + 1)))
    assert answer.status_code == 413
    assert "larger than" in answer.get_data(as_text=True)
    answer = page.upload(("<b>.jpeg", b"x" * (MAX_UPLOAD + 1)), ("fine.jpeg", b"P"), script=False)
    assert answer.status_code == 413
    assert "1 of 2 files were not taken; the others are in the inbox." in answer.text
    assert "&lt;b&gt;.jpeg: The file is larger" in answer.text
    assert sorted(page.inbox()) == ["a.jpeg", "fine.jpeg"]


def test_a_request_that_is_too_large_is_not_read(page: Page) -> None:
    answer = page.upload(*((f"{number}.jpeg", b"x" * MAX_UPLOAD) for number in range(21)), script=False)
    assert answer.status_code == 413
    assert "Send fewer at a time." in answer.text
    assert page.inbox() == {}


def test_an_upload_without_a_file_says_so(page: Page) -> None:
    assert page.upload().json == {"error": "Choose at least one file."}
    assert page.upload(("a", b"1"), ("b", b"2")).json == {"error": "Send one file with each request."}


def test_a_store_that_does_not_answer_is_said(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def head(self: FolderStore, key: str) -> ObjectInfo | None:
        raise StoreError("no answer")

    page.upload(("a.jpeg", b"1"))
    monkeypatch.setattr(FolderStore, "head", head)
    answer = page.upload(("a.jpeg", b"2"))
    assert (answer.status_code, answer.json) == (
        503,
        {"error": "The inbox and outbox cannot be reached now. Try again in a moment."},
    )


# Other sites, other hosts


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "null"},
        {"Origin": "http://[broken"},
    ],
)
def test_another_site_cannot_upload(page: Page, headers: dict[str, str]) -> None:
    answer = page.upload(("a.jpeg", b"P"), headers=headers)
    assert answer.status_code == 403
    assert page.inbox() == {}


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin", "Origin": "null"}, {"Origin": "http://localhost"}, {}]
)
def test_the_page_itself_and_programs_can(page: Page, headers: dict[str, str]) -> None:
    assert page.upload(("a.jpeg", b"P"), headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_this_machine_is_answered_to(page: Page, host: str) -> None:
    assert page.get("/healthz", headers={"Host": host}) == '{"status":"ok"}\n'


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8000", "localhost:80@x"]
)
def test_another_host_name_is_refused(page: Page, host: str) -> None:
    page.judged("a.jpeg", b"P")
    for address in ("/", "/healthz", "/changes", "/xray/a.jpeg", "/static/style.css"):
        html = page.get(address, 400, headers={"Host": host})
        assert "a.jpeg" not in html


def test_more_host_names_can_be_allowed(page: Page) -> None:
    page.client.application.config["ALLOWED_HOSTS"] = ("cxr.example",)
    page.get("/", headers={"Host": "cxr.example:8000"})


def test_every_answer_is_hardened_and_none_has_script_or_style_in_line(page: Page) -> None:
    etag = page.judged("a.jpeg", b"P")
    page.judged("bad.jpeg", b"bad")
    addresses = ["/", "/xray/a.jpeg", "/xray/bad.jpeg", "/xray/no", "/no", f"/preview/a.jpeg?v={etag}"]
    for address in [*addresses, "/changes?since=0", "/healthz", "/static/main.js", "/static/no", "/upload"]:
        with page.client.get(address) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; ")
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert policy.endswith("frame-ancestors 'none'")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "same-origin"
            assert "Cache-Control" in answer.headers
            if answer.mimetype == "text/html":
                text = answer.get_data(as_text=True)
                assert not re.search(
                    r'\sstyle="|\son\w+="|<style|<script(?! src="| type="application/json")', text
                )
                assert NOTICE in text


def test_a_failure_logs_no_name(
    page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def get(self: SqliteIndex, key: str) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(SqliteIndex, "get", get)
    html = page.xray("John Doe.jpeg", 500)
    assert "Something went wrong" in html
    assert "a request failed: GET pages.xray" in caplog.text
    assert "Doe" not in caplog.text


# Live


def test_changes_say_when_a_view_is_out_of_date(page: Page) -> None:
    page.get("/changes?since=0", 204)
    page.judged("a.jpeg", b"P")
    last = page.index.last_change()
    assert json.loads(page.get("/changes?since=0")) == {"change": last}
    page.get(f"/changes?since={last}", 204)
    assert json.loads(page.get("/changes?since=nonsense")) == {"change": last}


def test_one_xray_is_out_of_date_by_its_own_changes_alone(page: Page) -> None:
    page.judged("a b.jpeg", b"P")
    watch = re.search(r'data-watch="(.*?)"', page.xray("a b.jpeg"))
    assert watch
    page.get(unescape(watch[1]), 204)
    page.judged("other.jpeg", b"P")
    page.get(unescape(watch[1]), 204)
    page.index.mark("inbox/a b.jpeg", "deleted")
    page.get(unescape(watch[1]), 200)
    assert json.loads(page.get("/changes?since=5&name=nothing")) == {"change": 0}


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


def test_the_same_file_again_is_a_new_event_of_the_same_object(page: Page) -> None:
    """So that a failed one is tried again, as its message says."""
    page.upload(("a.jpeg", b"P1"))
    path = page.store.root / "inbox/a.jpeg"
    before = path.stat().st_ino
    page.upload(("a.jpeg", b"P1"))
    assert path.stat().st_ino != before
    assert page.inbox() == {"a.jpeg": b"P1"}
