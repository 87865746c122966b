"""The page in a real browser: Debian's Chromium, driven by playwright."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.pictures import BAD, SAMPLE
from tests.test_up import Up

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    root = tmp_path_factory.mktemp("root")
    (root / "inbox").mkdir()
    process = Up(root)
    yield process
    process.end()


@pytest.fixture
def page(up: Up) -> Iterator[Page]:
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        page = browser.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.goto(up.url)
        yield page
        assert complaints == []
        browser.close()


def test_an_upload_becomes_a_verdict_without_a_reload(page: Page) -> None:
    page.evaluate("window.sameDocument = true")
    page.locator("input[type=file]").first.set_input_files(SAMPLE)
    row = page.locator("[data-state]", has_text="pneumonia-1.jpeg")
    expect(row).to_have_attribute("data-state", re.compile("normal|pneumonia|uncertain"), timeout=20_000)
    assert page.evaluate("window.sameDocument") is True


def test_the_map_is_drawn_over_the_preview_and_can_be_hidden(page: Page, up: Up) -> None:
    page.goto(up.url + "/xray/pneumonia-1.jpeg")
    canvas = page.locator("canvas").first
    expect(canvas).to_be_visible()
    painted = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value > 0)"
    assert canvas.evaluate(painted)
    for opacity in ("0", "0.6"):
        page.keyboard.press("h")
        expect(canvas).to_have_css("opacity", opacity)


def test_a_rejected_file_says_what_to_do(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.jpeg"
    path.write_bytes(BAD["noise of bytes"][1]())
    page.locator("input[type=file]").first.set_input_files(path)
    row = page.locator("[data-state=rejected]", has_text="<img src=x onerror=alert(1)>.jpeg")
    expect(row).to_be_visible(timeout=20_000)
    row.get_by_role("link").first.click()
    expect(page.locator(".reason")).to_contain_text("Drop a single DICOM, JPEG, PNG, TIFF, BMP or WebP image")
