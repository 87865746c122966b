"""Requests that change something: uploads, and requests from other sites and hosts."""

import io
import re
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from pipeline.errors import StoreError
from pipeline.intake import record_verdict
from pipeline.judge import Judge, give_up
from pipeline.names import verdict_key
from pipeline.records import Job, ObjectInfo
from pipeline.store.folder import FolderStore
from pipeline.verdict import NOTICE
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import LIMIT, FakeEngine
from tests.support.webpage import MAX_UPLOAD, NOW, RELEASE, Booth, Page
from web.app import create_page
from web.upload import UploadRefused, upload_key

# Upload


def test_a_script_uploads_a_file_and_gets_its_key(page: Page) -> None:
    answer = page.upload(("ward 3/Röntgen.jpeg", b"P"))
    assert (answer.status_code, answer.json) == (200, {"key": "inbox/ward 3/Röntgen.jpeg"})
    assert page.inbox() == {"ward 3/Röntgen.jpeg": b"P"}


def test_the_form_uploads_many_files(page: Page) -> None:
    answer = page.upload(("a.jpeg", b"1"), ("b/c.jpeg", b"2"), script=False)
    assert (answer.status_code, answer.location) == (303, "/")
    assert page.inbox() == {"a.jpeg": b"1", "b/c.jpeg": b"2"}


def test_any_suffix_or_none_is_taken(page: Page) -> None:
    """The content decides what a file is; DICOM files often have no suffix."""
    for name in ("a.dcm", "IM000001", "1.2.840.113619.2.55"):
        assert page.upload((name, b"P")).json == {"key": f"inbox/{name}"}
    assert "accept=" not in page.get("/")


def test_an_equal_file_is_the_same_and_another_gets_a_number(page: Page) -> None:
    uploads = [
        (b"1", "a.jpeg"),
        (b"1", "a.jpeg"),
        (b"2", "a (2).jpeg"),
        (b"3", "a (3).jpeg"),
        (b"2", "a (2).jpeg"),
    ]
    known: set[str] = set()
    for data, name in uploads:
        existed = {"existed": True} if name in known else {}
        assert page.upload(("a.jpeg", data)).json == {"key": f"inbox/{name}", **existed}
        known.add(name)
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
    assert upload_key("ward 3\\a.jpeg") == "inbox/ward 3/a.jpeg"
    with pytest.raises(UploadRefused, match="cannot be used"):
        upload_key("..\\a.jpeg")


def test_a_file_that_is_too_large_is_refused_alone(page: Page) -> None:
    assert page.upload(("a.jpeg", b"x" * MAX_UPLOAD)).status_code == 200
    answer = page.upload(("big.jpeg", b"x" * (MAX_UPLOAD + 1)))
    assert answer.status_code == 413
    assert "larger than" in answer.get_data(as_text=True)
    answer = page.upload(("<b>.jpeg", b"x" * (MAX_UPLOAD + 1)), ("fine.jpeg", b"P"), script=False)
    assert answer.status_code == 413
    assert "1 of 2 files were not uploaded; the others are in the inbox." in answer.text
    assert "&lt;b&gt;.jpeg: The file is larger" in answer.text
    assert sorted(page.inbox()) == ["a.jpeg", "fine.jpeg"]


def test_a_request_that_is_too_large_is_not_read(page: Page) -> None:
    """It may hold one file of the largest size and the form around it; several files share that."""
    files = [FileStorage(io.BytesIO(bytes(size)), "a.jpeg") for size in (1, 1_000_000 + MAX_UPLOAD)]
    boundary, body = encode_multipart({"files": files})
    answer = page.client.post("/upload", data=body, content_type=f"multipart/form-data; boundary={boundary}")
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
        {"error": "The inbox and outbox cannot be reached right now. Try again in a moment."},
    )


# Judged again


def failed(page: Page, name: str, data: bytes = b"P1") -> str:
    """Drop an X-ray whose verdict is `failed` and return its key."""
    key = f"inbox/{name}"
    page.store.put(key, data, None)
    give_up(page.store, RELEASE, Job(key), "internal", "It could not be judged.")
    record_verdict(verdict_key(key), page.store, page.index)
    return key


def inode(page: Page, key: str) -> int:
    return (page.store.root / key).stat().st_ino


def test_a_failed_one_is_judged_again(page: Page) -> None:
    key = failed(page, "Röntgen & co.jpeg")
    before = inode(page, key)
    answer = page.client.post("/resubmit", data={"key": key}, headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json) == (202, {"key": key})
    assert inode(page, key) != before  # the same bytes anew: an event follows
    assert page.inbox() == {"Röntgen & co.jpeg": b"P1"}
    Judge(page.store, FakeEngine(), RELEASE, LIMIT).judge(Job(key))  # the effect of the event
    record_verdict(verdict_key(key), page.store, page.index)
    row = page.index.get(key)
    assert row is not None
    assert row.label == "pneumonia"


def test_its_page_has_a_button_for_that(page: Page) -> None:
    key = failed(page, "ward 3/a\nb.jpeg")
    html = page.xray("ward 3/a\nb.jpeg")
    (address,) = re.findall(r'action="(/resubmit[^"]*)" method="post"', html)
    before = inode(page, key)
    own = "http://localhost/?show=failed"
    answer = page.client.post(address, headers={"Accept": "text/html", "Referer": own})
    assert (answer.status_code, answer.location) == (303, own)
    assert inode(page, key) != before
    page.judged("fine.jpeg", b"P")
    page.judged("bad.jpeg", b"bad")
    assert "/resubmit" not in page.xray("fine.jpeg") + page.xray("bad.jpeg")


@pytest.mark.parametrize("referrer", ["http://evil.example/", "http://[broken", None])
def test_it_never_leads_to_another_site(page: Page, referrer: str | None) -> None:
    key = failed(page, "a.jpeg")
    headers = {"Accept": "text/html"} | ({"Referer": referrer} if referrer else {})
    assert page.client.post("/resubmit", data={"key": key}, headers=headers).location == "/"


def test_what_did_not_fail_is_left_alone(page: Page) -> None:
    page.judged("fine.jpeg", b"P")
    key = failed(page, "again.jpeg")
    page.index.wait([key], NOW + timedelta(days=9000))
    gone = failed(page, "gone.jpeg")
    page.store.delete(gone)
    said = {
        "inbox/fine.jpeg": (409, "did not fail"),
        key: (409, "already being judged"),
        gone: (409, "no longer in the inbox"),
        "inbox/unknown.jpeg": (404, "No X-ray with this name"),
        "outbox/fine.jpeg.json": (404, "No X-ray with this name"),
        "": (404, "No X-ray with this name"),
    }
    before = {name: inode(page, f"inbox/{name}") for name in page.inbox()}
    for asked, (code, words) in said.items():
        answer = page.client.post("/resubmit", data={"key": asked})
        assert answer.status_code == code
        assert words in answer.text
    assert {name: inode(page, f"inbox/{name}") for name in page.inbox()} == before
    other = page.client.post("/resubmit", data={"key": key}, headers={"Sec-Fetch-Site": "cross-site"})
    assert other.status_code == 403


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


STRANGE_HOSTS = ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8000", "localhost:80@x"]
# What no server can have as its name, so that Flask cannot even build an address with it.
STRANGE_HOSTS += [
    "a" * 300,
    "a" * 64 + ".b",
    ".",
    "a..b",
    "",
    "[::1",
    "localhost:123456",
    "\xe9",
    "localhost:",
]


@pytest.mark.parametrize("host", STRANGE_HOSTS)
def test_another_host_name_is_refused(page: Page, host: str) -> None:
    page.judged("a.jpeg", b"P")
    for address in ("/", "/healthz", "/changes", "/xray/a.jpeg", "/static/base.css"):
        html = page.get(address, 400, headers={"Host": host})
        assert "a.jpeg" not in html


@pytest.mark.parametrize("address", ["/resubmit", "/upload", "/upload/ticket"])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json", "text/plain"])
def test_what_is_no_file_may_not_be_large(tmp_path: Path, address: str, kind: str) -> None:
    """64 MB of form fields once took 2.3 GB and 48 seconds."""
    store, index = FolderStore(tmp_path / "data"), SqliteIndex(tmp_path / "index.sqlite")
    client = create_page(store, index, 64_000_000, tickets=Booth()).test_client()
    large = b"a=&" * 1_000_000
    answer = client.post(address, data=large, content_type=kind, headers={"Accept": "application/json"})
    assert answer.status_code in (400, 404, 413)
    # However the length is told, and whatever the field is called.
    chunks = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "CONTENT_TYPE": kind}
    answer = client.post(address, input_stream=io.BytesIO(large), environ_overrides=chunks)
    assert answer.status_code in (400, 404, 413)
    index.close()


def test_a_form_is_no_way_to_fill_memory(tmp_path: Path) -> None:
    store, index = FolderStore(tmp_path / "data"), SqliteIndex(tmp_path / "index.sqlite")
    client = create_page(store, index, 64_000_000).test_client()
    tracemalloc.start()
    try:
        for address in ("/resubmit", "/upload"):
            form = "application/x-www-form-urlencoded"
            assert client.post(address, data=b"a=&" * 1_000_000, content_type=form).status_code == 413
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
        index.close()


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{", b"null", b'{"name": "\\udcff", "size": 1}', b"\xff"])
def test_a_ticket_is_not_given_for_nonsense(tmp_path: Path, body: bytes) -> None:
    store, index = FolderStore(tmp_path / "data"), SqliteIndex(tmp_path / "index.sqlite")
    client = create_page(store, index, MAX_UPLOAD, tickets=Booth()).test_client()
    assert client.post("/upload/ticket", data=body, content_type="application/json").status_code == 400
    index.close()


def test_more_host_names_can_be_allowed(page: Page) -> None:
    page.client.application.config["ALLOWED_HOSTS"] = ("cxr.example",)
    page.get("/", headers={"Host": "cxr.example:8000"})


def test_every_answer_is_hardened_and_none_has_script_or_style_in_line(page: Page) -> None:
    etag = page.judged("a.jpeg", b"P")
    page.judged("bad.jpeg", b"bad")
    addresses = ["/", "/xray/a.jpeg", "/xray/bad.jpeg", "/xray/no", "/no", f"/preview/a.jpeg?v={etag}"]
    for address in [*addresses, "/changes?since=0", "/healthz", "/static/page.js", "/static/no", "/upload"]:
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


def test_the_same_file_again_is_a_new_event_of_the_same_object(page: Page) -> None:
    """A failed one is then tried again, as its message says."""
    page.upload(("a.jpeg", b"P1"))
    path = page.store.root / "inbox/a.jpeg"
    before = path.stat().st_ino
    page.upload(("a.jpeg", b"P1"))
    assert path.stat().st_ino != before
    assert page.inbox() == {"a.jpeg": b"P1"}
