"""Worklist and statistics in a real browser, while a drift is told."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from pipeline.records import Reviewed
from tests.support.browsing import complaints_of
from tests.support.webpage import serve
from tests.web.test_statistics import CARD, unlike


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a page whose X-rays have drifted, with every state and some reviews."""
    folder: Path = tmp_path_factory.mktemp("drift")
    page = serve(folder, json.loads(CARD.model_dump_json()))
    unlike(page)
    for name, data in {"a": b"P", "b": b"N", "c": b"P atypical", "d": b"bad"}.items():
        page.judged(f"{name}.jpeg", data)
    for name, said in (("a", "agreed"), ("b", "disagreed")):
        row = page.index.get(f"inbox/{name}.jpeg")
        assert row
        page.index.review(row.key, Reviewed(row.verdict_etag, said))  # type: ignore[arg-type]
    server = make_server("127.0.0.1", 0, page.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()
    page.index.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page(base_url=url, color_scheme="dark", reduced_motion="reduce")
    complaints = complaints_of(page)
    yield page
    page.close()
    assert complaints == []


@pytest.mark.parametrize("path", ["/", "/statistics", "/statistics?period=12m"])
def test_a_drift_is_told_and_in_nobodys_way(page: Page, path: str) -> None:
    page.goto(path)
    expect(page.get_by_text("Unlike the data it was checked on since")).to_be_visible()
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for _ in ("dark", "light"):
            found = Axe().run(page).response["violations"]
            assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
            page.locator("#theme").click()
