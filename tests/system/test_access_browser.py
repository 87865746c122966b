"""`cxr up` with users as a whole: a real process and a real browser."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, expect

from tests.support.pictures import SAMPLE
from tests.system.test_up import Up
from tests.web.test_access import LINE, PASSWORD, basic


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "users").write_text(f"{LINE}\n")
    monkeypatch.setenv("CXR_USERS", str(tmp_path / "users"))
    process = Up(tmp_path)
    yield process
    assert process.end() == ""


def test_a_password_is_asked_for_and_opens_the_page(up: Up, tmp_path: Path, browser: Browser) -> None:
    stranger, seen = browser.new_page(), list[int]()
    stranger.on("response", lambda answer: seen.append(answer.status))
    with suppress(Error):  # where a window would ask
        stranger.goto(up.url)
    assert seen[0] == 401
    page = browser.new_context(http_credentials={"username": "ada", "password": PASSWORD}).new_page()
    page.goto(up.url)
    page.locator("input[type=file]").first.set_input_files(SAMPLE)
    expect(page.locator("[data-state]", has_text=SAMPLE.name)).to_be_visible(timeout=20_000)
    page.close()

    wrong = urllib.request.Request(
        up.url, headers={**basic("ada", "wrong"), "X-Forwarded-For": "203.0.113.5"}
    )
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(wrong, timeout=10)
    noted = [json.loads(line) for line in (tmp_path / ".cxr/audit.jsonl").read_text().splitlines()]
    noted = [line for line in noted if line["action"] != "preview"]  # the page has looked at its thumbnail
    assert [(line["user"], line["address"], line["action"], line["result"]) for line in noted] == [
        ("ada", "127.0.0.1", "login", "done"),
        ("ada", "127.0.0.1", "upload", "done"),
        ("ada", "203.0.113.5", "login", "refused"),
    ]
