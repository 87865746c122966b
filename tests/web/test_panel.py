"""The panel of host and queue on the page."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser, expect
from werkzeug.serving import make_server

from pipeline.records import HostState, HostStatus, Operations, QueueStatus
from pipeline.store.folder import FolderStore
from pipeline.verdict import Release
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import LIMIT, FakeEngine
from tests.support.machines import wait_for
from web.app import create_page
from web.wording import HOST_STATE_NAMES

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MODEL, RELEASE = FakeEngine.model, Release(number=7, version="test")

FAINT = "getComputedStyle(document.querySelector('.host dt')).color"


class Fixed:
    """Report what the test sets."""

    def __init__(self) -> None:
        self.host, self.queue = HostStatus("ready"), QueueStatus(0)

    def look(self) -> Operations:
        return Operations(self.host, self.queue, datetime.now(UTC))


@pytest.fixture
def monitor() -> Fixed:
    return Fixed()


@pytest.fixture
def app(tmp_path: Path, monitor: Fixed) -> Iterator[Flask]:
    index = SqliteIndex(tmp_path / "index.sqlite")
    card = {"sha256": MODEL.sha256}
    yield create_page(FolderStore(tmp_path / "data"), index, LIMIT, card, operations=monitor)
    index.close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.mark.parametrize("state", HOST_STATE_NAMES)
def test_the_page_shows_each_state(state: HostState, client: FlaskClient, monitor: Fixed) -> None:
    monitor.host = HostStatus(state, since=NOW)
    html = client.get("/").text
    assert f'class="host is-{state}"' in html
    assert f'href="#i-{state}"></use></svg>{HOST_STATE_NAMES[state]}</span>' in html
    assert f'id="i-{state}"' in html
    assert 'datetime="2026-01-01T12:00:00+00:00" data-style="for"' in html


def test_the_page_shows_work_queue_model_and_the_last_error(client: FlaskClient, monitor: Fixed) -> None:
    monitor.host = HostStatus("busy", NOW, 12, 340, MODEL, RELEASE, "<b>a defect", NOW)
    monitor.queue = QueueStatus(57, NOW)
    html = client.get("/host").text
    assert "<b>340</b>/min" in html
    assert "12 in progress" in html
    assert "<b>57</b> to do" in html
    assert "oldest waiting" in html
    assert 'href="/model">fake 1</a>' in html
    assert "release 7" in html
    assert "&lt;b&gt;a defect" in html
    monitor.host = replace(monitor.host, model=MODEL.model_copy(update={"sha256": "1" * 64}))
    assert "/model" not in client.get("/host").text  # the card is of another network


def test_the_page_says_why_something_is_unknown_once(client: FlaskClient, monitor: Fixed) -> None:
    monitor.host = HostStatus("unknown", detail="No answer.")
    monitor.queue = QueueStatus(None, detail="No answer.")
    assert client.get("/host").text.count("No answer.") == 1


def test_an_unchanged_panel_is_not_sent_again(client: FlaskClient, monitor: Fixed) -> None:
    first = client.get("/host")
    tag = {"If-None-Match": first.headers["ETag"]}
    again = client.get("/host", headers=tag)
    assert (again.status_code, again.data) == (304, b"")
    monitor.queue = QueueStatus(1)
    assert client.get("/host", headers=tag).status_code == 200


def test_without_a_monitor_there_is_no_panel(tmp_path: Path) -> None:
    index = SqliteIndex(tmp_path / "index.sqlite")
    client = create_page(FolderStore(tmp_path / "data"), index, LIMIT).test_client()
    assert 'id="host"' not in client.get("/").text
    assert client.get("/host").status_code == 404
    index.close()


def test_what_does_not_run_is_shown_and_fails_the_life_sign(tmp_path: Path, monitor: Fixed) -> None:
    index, problems = SqliteIndex(tmp_path / "index.sqlite"), ["The watcher does not work: <b>it ended."]
    store = FolderStore(tmp_path / "data")
    for parts in ({}, {"operations": monitor}):
        client = create_page(store, index, LIMIT, problems=lambda: list(problems), **parts).test_client()
        for address in ("/", "/host"):
            html = client.get(address).text
            assert 'role="alert"' in html
            assert "The watcher does not work: &lt;b&gt;it ended." in html
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json) == (503, {"status": "failing", "problems": problems})
        (problem,) = problems
        problems.clear()
        assert 'role="alert"' not in client.get("/").text
        assert client.get("/healthz").json == {"status": "ok"}
        problems.append(problem)
    index.close()


def test_other_pages_of_the_bucket_are_told_and_fail_nothing(tmp_path: Path, monitor: Fixed) -> None:
    index, store, found = SqliteIndex(tmp_path / "index.sqlite"), FolderStore(tmp_path / "data"), [0]
    client = create_page(store, index, LIMIT, operations=monitor, others=lambda: found[0]).test_client()
    for found[0], said in enumerate(["", "Another CXR Inbox serves this", "2 other CXR Inboxes serve this"]):
        for address in ("/", "/host"):
            html = client.get(address).text
            assert said in html
            assert ("this bucket." in html) is bool(said)
        assert client.get("/healthz").json == {"status": "ok"}
    index.close()


def test_the_panel_follows_though_no_row_changes(app: Flask, monitor: Fixed, browser: Browser) -> None:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    page = browser.new_page()
    try:
        page.clock.install()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        panel = page.locator("#host")
        expect(panel).to_contain_text("Ready")
        for state, word in (("busy", "Busy"), ("ready", "Ready")):
            monitor.host = HostStatus(state)
            page.clock.run_for(5100)
            expect(panel).to_contain_text(word)
        page.route("**/*", lambda route: route.abort())
        told = panel.get_by_text("No connection to the server: this is what it last said.")
        wait_for(lambda: page.clock.run_for(1000) or told.is_visible(), 30)
        expect(panel.locator(".state")).to_have_css("color", page.evaluate(FAINT))  # no longer green
    finally:
        page.close()
        server.shutdown()
        thread.join(10)
        server.server_close()
