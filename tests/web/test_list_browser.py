"""The worklist in a real browser: selecting, forgetting, dates, the place kept; the verdicts are fakes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from pipeline.forget import erase_xrays
from tests.support.browsing import assert_accessible, complaints_of
from tests.support.webpage import MAX_UPLOAD, NOW, serve
from web.app import create_page

COUNT = 60


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Serve a page with two pages of X-rays, one each hour."""
    page = serve(tmp_path)
    for number in range(COUNT):
        name = f"{number:02}.jpeg"
        page.judged(name, b"P age_unknown %d" % number)
        page.finished(name, NOW - timedelta(hours=number))
    erase = partial(erase_xrays, store=page.store, index=page.index, quiet=0)
    app = create_page(page.store, page.index, MAX_UPLOAD, eraser=erase, problems=list)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    page.index.close()


@contextmanager
def opened(browser: Browser, url: str, **options: object) -> Iterator[Page]:
    options = {"color_scheme": "dark", **options}
    context = browser.new_context(base_url=url, **options)  # type: ignore[arg-type]
    page = context.new_page()
    complaints = complaints_of(page)
    page.goto("/")
    yield page
    context.close()
    assert complaints == []


def test_rows_are_selected_and_forgotten(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        boxes, told = page.locator(".row .mark input"), page.locator("#selected-count")
        expect(page.locator("#hits")).to_have_text("1\u201350 of 60")
        expect(page.locator("#act-forget")).to_be_hidden()
        boxes.nth(1).click()
        boxes.nth(4).click(modifiers=["Shift"])
        expect(told).to_have_text("4 selected")
        page.locator(".row .name").nth(6).focus()
        page.keyboard.press("x")
        expect(told).to_have_text("5 selected")
        assert_accessible(page)
        page.locator("#act-forget").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Forget these 5 X-rays?")
        assert_accessible(page)
        page.get_by_role("link", name="Cancel").click()
        boxes.nth(0).click()
        page.get_by_label("Search by name").fill("01")
        expect(page.locator(".row")).to_have_count(1)
        expect(page.locator("#act-forget")).to_be_hidden()  # another view: nothing of it is selected
        page.locator("#select-page").click()
        page.locator("#act-forget").click()
        page.get_by_role("button", name="Forget 1 X-ray").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("1 X-ray was forgotten")
        assert_accessible(page)
        page.keyboard.press("Escape")
        expect(page).to_have_url(re.compile(r"/\?search=01$"))
        expect(page.get_by_text("No X-ray matches")).to_be_visible()


def test_the_place_is_kept_and_said(browser: Browser, url: str) -> None:
    with opened(browser, url, viewport={"width": 1280, "height": 700}) as page:
        for way in ("key", "link"):
            page.goto("/?state=pneumonia")
            page.locator(".row .name", has_text="40.jpeg").scroll_into_view_if_needed()
            top = page.evaluate("scrollY")
            assert top > 1000
            page.locator(".row .name", has_text="40.jpeg").click()
            expect(page.locator("#around")).to_contain_text("41 of 60")
            page.wait_for_load_state()  # its script hears the next key
            page.keyboard.press("j")
            expect(page.locator("#around")).to_contain_text("42 of 60")
            page.wait_for_load_state()
            page.keyboard.press("Escape") if way == "key" else page.locator("#back").click()
            expect(page).to_have_url(re.compile(r"/\?state=pneumonia$"))
            expect(page.locator(".name", has_text="41.jpeg")).to_be_focused()
            assert page.evaluate("scrollY") == pytest.approx(top, abs=150)


def test_days_are_those_of_the_reader(browser: Browser, url: str) -> None:
    with opened(browser, url, timezone_id="Asia/Seoul") as page:
        page.locator("#from").fill("2025-11-23")
        expect(page).to_have_url(re.compile(r"\?from=2025-11-22T15%3A00Z$"))
        expect(page.locator(".row")).to_have_count(12)
        page.locator("#to").fill("2025-11-22")
        expect(page.get_by_text("None of the 60 X-rays is from these dates")).to_be_visible()
        page.reload()
        assert page.locator("#from").input_value() == "2025-11-23"
        assert page.locator("#to").input_value() == "2025-11-22"


def test_the_theme_is_the_systems_until_one_is_chosen(browser: Browser, url: str) -> None:
    with opened(browser, url, color_scheme="light") as page:
        expect(page.locator("html")).to_have_attribute("data-theme", "light")
        page.emulate_media(color_scheme="dark")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.locator("#theme").click()
        page.emulate_media(color_scheme="light")
        page.locator("#theme").click()
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_lost_connection_is_said_beside_the_host(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        told = page.locator("#host .unreached")
        expect(told).to_be_hidden()
        page.route("**/changes?*", lambda route: route.fulfill(body="<p>Log in</p>"))
        page.route("**/", lambda route: route.fulfill(body="<p>Log in</p>", content_type="text/html"))
        expect(told).to_be_visible(timeout=20_000)
        page.unroute_all()
        expect(told).to_be_hidden(timeout=20_000)


def test_without_script_and_on_a_phone(browser: Browser, url: str) -> None:
    with opened(browser, url, java_script_enabled=False) as page:
        page.locator("#to").fill("2025-11-20")
        page.get_by_role("button", name="Search").click()
        expect(page.locator(".row")).to_have_count(9)
        for box in page.locator(".row .mark input").all():
            box.check()
        page.get_by_role("button", name="Forget").click()
        page.get_by_role("button", name="Forget 9 X-rays").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("9 X-rays were forgotten")
    with opened(browser, url, viewport={"width": 360, "height": 740}) as page:
        first, upload = page.locator(".row").first.bounding_box(), page.locator("#upload").bounding_box()
        assert first
        assert upload
        assert upload["y"] < first["y"] < 500
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator(".row .mark input").first.check()
        expect(page.locator("#act-forget")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
