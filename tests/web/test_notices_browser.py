"""Notifications in a real browser: by choice only, without names, never in blind mode."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.support.browsing import complaints_of
from tests.support.fakes import SAMPLES
from tests.system.test_up import Up

# Headless Chromium shows no notifications: this notes them, and lets people allow them.
NOTED = """
window.told = [];
window.Notification = class {
  static permission = localStorage.getItem("allowed") ?? "default";
  static async requestPermission() {
    localStorage.setItem("allowed", "granted");
    return (Notification.permission = "granted");
  }
  constructor(title, options) { window.told.push([title, options.body, options.tag]); }
};
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    root = tmp_path_factory.mktemp("root")
    (root / "inbox").mkdir()
    (root / "inbox" / "old.jpeg").write_bytes((SAMPLES / "pneumonia-2.jpeg").read_bytes())
    process = Up(root)
    yield process
    process.end()


@pytest.fixture
def page(up: Up, browser: Browser) -> Iterator[Page]:
    page = browser.new_page(base_url=up.url)
    complaints = complaints_of(page)
    page.add_init_script(NOTED)
    page.goto("/")
    expect(page.locator('.row[data-state="pneumonia"]', has_text="old.jpeg")).to_have_count(1, timeout=30_000)
    yield page
    page.close()
    assert complaints == []


def comes(page: Page, name: str, sample: str, state: str) -> None:
    """Add an X-ray from outside, and return when the list shows its verdict."""
    file = FilePayload(name=name, mimeType="image/jpeg", buffer=(SAMPLES / sample).read_bytes())
    page.request.post("/upload", multipart={"files": file})
    expect(page.locator(f'.row[data-state="{state}"]', has_text=name)).to_have_count(1, timeout=20_000)


def told(page: Page) -> list[list[str]]:
    found: list[list[str]] = page.evaluate("window.told")
    return found


def test_new_pneumonia_is_told_by_choice_and_without_a_name(page: Page) -> None:
    button = page.get_by_role("button", name="Notify me")
    expect(button).to_have_attribute("aria-pressed", "false")
    comes(page, "Zaphod-1.jpeg", "pneumonia-1.jpeg", "pneumonia")
    assert told(page) == []  # nobody chose it
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    comes(page, "Zaphod-2.jpeg", "normal-1.jpeg", "normal")
    assert told(page) == []
    comes(page, "Zaphod-3.jpeg", "pneumonia-2.jpeg", "pneumonia")
    page.wait_for_function("window.told.length === 1")
    [[title, body, tag]] = told(page)
    assert (title, body) == ("1 new X-ray: pneumonia", "Not for diagnosis.")
    assert "Zaphod" not in tag
    page.get_by_role("link", name="Triage").click()  # another view shows old ones: no news
    expect(page.locator(".row")).to_have_count(4)
    page.reload()
    expect(button).to_have_attribute("aria-pressed", "true")  # the choice is kept
    assert told(page) == []
    button.click()
    comes(page, "Zaphod-4.jpeg", "pneumonia-1.jpeg", "pneumonia")
    assert told(page) == []
    page.reload()
    expect(button).to_have_attribute("aria-pressed", "false")


def test_blind_mode_tells_nothing(page: Page) -> None:
    page.get_by_role("button", name="Notify me").click()
    page.get_by_role("button", name="Blind mode").click()
    expect(page.get_by_role("button", name="Blind mode")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#notify")).to_have_count(0)
    comes(page, "blind.jpeg", "pneumonia-1.jpeg", "hidden")
    page.wait_for_timeout(1500)
    assert told(page) == []


def test_a_browser_without_notifications_offers_none(up: Up, browser: Browser) -> None:
    page = browser.new_page(base_url=up.url)
    page.add_init_script("delete window.Notification")
    page.goto("/")
    expect(page.locator("#keys-open")).to_be_visible()
    expect(page.locator("#notify")).to_be_hidden()
    page.close()
