"""The audit: who did what."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.names import key_hash
from pipeline.store.folder import FolderStore
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.webpage import MAX_UPLOAD, Page
from tests.web.test_access import PASSWORD, USERS, basic
from web.access import Access
from web.app import create_page
from web.audit import Audit

SECRET = "secret"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audit(path: Path) -> Audit:
    return Audit(path, SECRET)


def serve(folder: Path, audit: Audit, access: Access) -> Page:
    store, index = FolderStore(folder / "data"), SqliteIndex(folder / "index.sqlite")
    return Page(create_page(store, index, MAX_UPLOAD, access=access, audit=audit).test_client(), store, index)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_who_did_what_is_noted_without_names(tmp_path: Path, path: Path, audit: Audit) -> None:
    page = serve(tmp_path, audit, Access(users=USERS))
    page.judged("John Doe.jpeg", b"P")
    for address in ("/", "/xray/John Doe.jpeg", "/changes"):
        page.get(address, headers=basic("ada"))
    page.get("/xray/Doe", 404, headers=basic("ada"))
    page.upload(("Jane Doe.jpeg", b"N"), headers=basic("ada"))
    page.upload((".Jane Doe", b"N"), headers=basic("ada"))
    page.get("/xray/John Doe.jpeg", 401)
    page.get("/", 401, headers=basic("ada", "wrong"))
    page.get("/", 401, headers=basic(PASSWORD, ""))
    page.index.close()

    found = lines(path)
    first, second = (key_hash(f"inbox/{name}.jpeg", SECRET) for name in ("John Doe", "Jane Doe"))
    assert [(line["user"], line["action"], line["result"], line["key"]) for line in found] == [
        ("ada", "login", "done", None),
        ("ada", "view", "done", first),
        ("ada", "upload", "done", second),
        ("ada", "login", "refused", None),
        (None, "login", "refused", None),
    ]
    for line in found:
        assert line["address"] == "127.0.0.1"
        assert abs((datetime.fromisoformat(line["time"]) - datetime.now(UTC)).total_seconds()) < 60
    assert "Doe" not in path.read_text()
    assert PASSWORD not in path.read_text()


def test_reading_many_at_once_is_noted_with_how_many_they_were(
    tmp_path: Path, path: Path, audit: Audit
) -> None:
    page = serve(tmp_path, audit, Access(users=USERS))
    etags = [page.judged(f"John Doe {number}.jpeg", b"P%d" % number) for number in range(3)]
    ada = basic("ada")
    page.get("/api/verdicts?limit=2", headers=ada)
    page.get("/api/verdicts.csv", headers=ada)
    page.get("/api/verdicts/John Doe 0.jpeg", headers=ada)
    preview = f"/preview/John Doe 1.jpeg?v={etags[1]}"
    with page.client.get(preview, headers=ada) as answer:
        tag = answer.headers["ETag"]
    page.get(preview, 304, headers={**ada, "If-None-Match": tag})  # nothing was read
    page.get("/preview/John Doe 9.jpeg", 404, headers=ada)
    page.get("/api/verdicts", 401)
    with page.client.get("/api/verdicts.csv", headers=ada, buffered=False) as answer:
        next(answer.iter_encoded())
        next(answer.iter_encoded())  # the reader breaks off after one X-ray
    page.index.close()

    zero, one = (key_hash(f"inbox/John Doe {number}.jpeg", SECRET) for number in range(2))
    assert [(line["user"], line["action"], line["key"], line["count"]) for line in lines(path)] == [
        ("ada", "login", None, None),
        ("ada", "list", None, 2),
        ("ada", "export", None, 3),
        ("ada", "view", zero, None),
        ("ada", "preview", one, None),
        ("ada", "export", None, 1),
    ]
    assert "Doe" not in path.read_text()


def test_a_proxys_user_is_noted(tmp_path: Path, path: Path, audit: Audit) -> None:
    from ipaddress import ip_network

    page = serve(tmp_path, audit, Access(header="X-Remote-User", proxies=(ip_network("127.0.0.0/8"),)))
    page.judged("a.jpeg", b"P")
    page.get("/xray/a.jpeg", headers={"X-Remote-User": 'ada"\u00e9', "X-Forwarded-For": "203.0.113.5"})
    page.index.close()
    (line,) = lines(path)
    assert (line["user"], line["address"]) == ('ada"\u00e9', "203.0.113.5")


def test_a_page_without_users_notes_the_address(tmp_path: Path, path: Path, audit: Audit) -> None:
    page = serve(tmp_path, audit, Access())
    page.judged("a.jpeg", b"P")
    page.xray("a.jpeg")
    page.index.close()
    assert [(line["user"], line["address"], line["action"]) for line in lines(path)] == [
        (None, "127.0.0.1", "view")
    ]


def test_its_owner_alone_may_read_it_and_it_is_bounded(path: Path) -> None:
    audit = Audit(path, SECRET, file_bytes=2000)
    with ThreadPoolExecutor(4) as threads:
        for number in range(300):
            threads.submit(audit.note, "view", f"inbox/{number}", "done", "ada", "127.0.0.1")
    files = sorted(path.parent.glob("audit.jsonl*"))
    assert len(files) == 10
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert max(file.stat().st_size for file in files) <= 2000
    assert all(line["user"] == "ada" for file in files for line in lines(file))


def test_a_start_adds_to_it(path: Path) -> None:
    for _ in range(2):
        Audit(path, SECRET).note("export", None, "done", None, "127.0.0.1")
    assert [line["action"] for line in lines(path)] == ["export", "export"]


def test_that_it_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = Audit(tmp_path / "none" / "audit.jsonl", SECRET)
    key = "inbox/John Doe.jpeg"
    audit.note("view", key, "done", "ada", "127.0.0.1")
    said = capsys.readouterr().err
    assert "No such file or directory" in said
    assert "Doe" not in said
