"""Reviews in a real browser: keys, blind mode, two readers, a replaced file, a phone, without script."""

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browsing import assert_accessible, complaints_of
from tests.support.fakes import SAMPLES
from tests.support.machines import wait_for
from tests.system.test_up import Up
from tests.web.test_access import PASSWORD, basic
from web.users import user_line

FILES = ("normal-1.jpeg", "normal-2.jpeg", "pneumonia-1.jpeg", "uncertain-1.jpeg")
READERS = ("ada", "bob", "blind", "plain")  # the last two have not seen any verdict before their test


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    (root / "inbox").mkdir()
    (root / "users").write_text("".join(f"{user_line(name, PASSWORD)}\n" for name in READERS))
    return root


@pytest.fixture(scope="module")
def up(root: Path) -> Iterator[Up]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_USERS", str(root / "users"))
        up = Up(root)
    for name in FILES:  # one by one, so that their order is known
        shutil.copy(SAMPLES / name, root / "inbox" / name)
        wait_for(lambda place=root / "outbox" / f"{name}.json": place.exists(), 60)  # type: ignore[misc]
    yield up
    assert up.end() == ""


@pytest.fixture(autouse=True)
def _unread(up: Up, root: Path) -> None:
    """Take back all answers of the tests before."""
    for user in READERS[:2]:
        for name in FILES:
            headers = {**basic(user), "Content-Type": "application/json"}
            address = f"{up.url}/api/verdicts/{name}"
            request = urllib.request.Request(address, headers=headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                item = json.load(answer)["item"]
            if user in item["reviewers"]:
                word = json.dumps({"verdict_etag": item["verdict_etag"], "said": "withdrawn"}).encode()
                urllib.request.urlopen(
                    urllib.request.Request(f"{address}/reviews", word, headers), timeout=10
                ).close()


def reader(browser: Browser, up: Up, name: str, **options: object) -> Page:
    user = {"username": name, "password": PASSWORD}
    # Without motion: while a new row fades in, its contrast is not yet what it will be.
    look = {"color_scheme": "dark", "reduced_motion": "reduce"}
    options = {"base_url": up.url, "http_credentials": user, **look, **options}
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto("/")
    return page


@pytest.fixture
def page(up: Up, browser: Browser) -> Iterator[Page]:
    page = reader(browser, up, "ada")
    complaints = complaints_of(page)
    yield page
    page.context.close()
    assert complaints == []


def press(page: Page, key: str, name: str) -> None:
    """Press a key, and wait until the X-ray to which it leads hears keys."""
    page.keyboard.press(key)
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    page.wait_for_load_state()


def review(page: Page, name: str) -> object:
    return page.request.get(f"/api/verdicts/{name}").json()["item"]["review"]


def violations(page: Page) -> list[str]:
    return [f"{found['id']}: {found['nodes'][0]['html']}" for found in Axe().run(page).response["violations"]]


def test_the_keyboard_alone_is_enough_to_read_a_list(page: Page) -> None:
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    press(page, "Enter", "uncertain-1.jpeg")
    press(page, "1", "pneumonia-1.jpeg")
    press(page, "n", "pneumonia-1.jpeg")
    page.keyboard.type("1 clear 2 see")  # digits and letters of a note are no answers
    page.keyboard.press("Enter")
    expect(page.locator("#note")).not_to_be_focused()
    press(page, "1", "normal-2.jpeg")
    expect(page.get_by_text("You see pneumonia; the network says pneumonia.")).to_be_visible()
    press(page, "2", "normal-1.jpeg")
    press(page, "u", "normal-2.jpeg")
    expect(page.get_by_role("button", name="Disagree")).to_have_attribute("aria-pressed", "false")
    press(page, "1", "normal-1.jpeg")
    press(page, "3", "normal-1.jpeg")
    expect(page.get_by_text("There is nothing more to review in this list.")).to_be_visible()
    press(page, "k", "normal-2.jpeg")
    press(page, "k", "pneumonia-1.jpeg")
    expect(page.locator("#note")).to_have_value("1 clear 2 see")
    said = [review(page, name) for name in FILES]
    assert said == ["unsure", "agreed", "agreed", "decided"]
    page.keyboard.press("Escape")
    page.wait_for_url("**/")
    expect(page.locator(".row", has_text="pneumonia-1.jpeg").locator(".is-read")).to_have_text("agreed: ada")
    page.locator("#reviews").get_by_role("link", name="unsure").click()
    page.wait_for_url("**/?review=unsure")
    expect(page.locator(".row")).to_have_count(1)
    page.wait_for_load_state()
    page.keyboard.press("?")
    expect(page.get_by_text("Open it", exact=True)).to_be_visible()


def test_a_key_pressed_twice_answers_once(page: Page) -> None:
    page.goto("/xray/pneumonia-1.jpeg")
    before = len(page.request.get("/api/verdicts/pneumonia-1.jpeg/reviews").json()["reviews"])
    page.evaluate("for (const _ of [1, 2, 3]) document.getElementById('say-1').click()")
    expect(page.get_by_role("heading", level=1)).to_have_text("normal-2.jpeg")
    after = page.request.get("/api/verdicts/pneumonia-1.jpeg/reviews").json()["reviews"]
    assert len(after) == before + 1
    page.wait_for_load_state()
    page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', { key: '1', repeat: true }))")
    page.wait_for_timeout(300)  # the key is still held down from the X-ray before
    expect(page.get_by_role("heading", level=1)).to_have_text("normal-2.jpeg")


def is_full(page: Page) -> bool:
    return page.evaluate("document.fullscreenElement?.id") == "xray"


def full_screen(page: Page, name: str) -> None:
    page.goto(f"/xray/{name}")
    page.keyboard.press("f")
    wait_for(lambda: is_full(page))


def test_full_screen_and_full_width_last_from_xray_to_xray(page: Page) -> None:
    page.goto("/xray/uncertain-1.jpeg")
    page.keyboard.press("v")
    press(page, "j", "pneumonia-1.jpeg")
    expect(page.locator("#wide")).to_have_attribute("aria-pressed", "true")
    full_screen(page, "uncertain-1.jpeg")
    page.keyboard.press("+")
    way = (("j", "pneumonia-1.jpeg"), ("ArrowRight", "normal-2.jpeg"), ("k", "pneumonia-1.jpeg"))
    for key, name in way:
        press(page, key, name)
        assert is_full(page)
        expect(page).to_have_url(re.compile(f"/xray/{name}"))
        expect(page).to_have_title(re.compile(name))
        expect(page.locator("#preview")).to_have_attribute("src", re.compile(name))
        expect(page.locator("#map-high")).not_to_be_empty()
        expect(page.locator("#zoom-now")).to_have_text("1\u00d7")
        assert violations(page) == []
    page.wait_for_timeout(1500)  # a live refresh is about this X-ray, not about the first one
    expect(page.get_by_role("heading", level=1)).to_have_text("pneumonia-1.jpeg")
    page.evaluate("history.back()")
    expect(page.get_by_role("heading", level=1)).to_have_text("normal-2.jpeg")
    assert is_full(page)
    page.keyboard.press("f")
    wait_for(lambda: not is_full(page))
    page.evaluate("history.back()")
    expect(page.get_by_role("heading", level=1)).to_have_text("pneumonia-1.jpeg")
    page.wait_for_load_state()
    page.keyboard.press("Escape")
    page.wait_for_url("**/")
    expect(page.locator(".row", has_text="pneumonia-1.jpeg").locator("a.name")).to_be_focused()


def test_a_list_is_read_in_full_screen(page: Page) -> None:
    full_screen(page, "uncertain-1.jpeg")
    expect(page.locator(".headline .state")).to_be_visible()
    press(page, "1", "pneumonia-1.jpeg")
    expect(page.get_by_text("uncertain-1.jpeg: saved. You see pneumonia")).to_be_visible()
    press(page, "2", "normal-2.jpeg")
    press(page, "u", "pneumonia-1.jpeg")
    page.keyboard.press("n")
    page.keyboard.type("3 clear")
    page.keyboard.press("Enter")
    press(page, "1", "normal-2.jpeg")
    page.evaluate("for (const _ of [1, 2, 3]) document.getElementById('say-1').click()")
    expect(page.get_by_role("heading", level=1)).to_have_text("normal-1.jpeg")
    press(page, "3", "normal-1.jpeg")
    expect(page.get_by_text("There is nothing more to review in this list.")).to_be_visible()
    assert is_full(page)
    assert [review(page, name) for name in FILES] == ["unsure", "agreed", "agreed", "decided"]
    assert len(page.request.get("/api/verdicts/normal-2.jpeg/reviews").json()["reviews"]) % 2 == 1
    press(page, "k", "normal-2.jpeg")
    press(page, "k", "pneumonia-1.jpeg")
    expect(page.locator("#note")).to_have_value("3 clear")
    page.evaluate("document.querySelector('[name=verdict]').value = 'of a verdict that was replaced'")
    press(page, "2", "pneumonia-1.jpeg")
    expect(page.get_by_text("Your answer was not saved: look again.")).to_be_visible()
    assert is_full(page)
    assert review(page, "pneumonia-1.jpeg") == "agreed"


def test_what_cannot_be_shown_in_full_screen_ends_it(up: Up, browser: Browser) -> None:
    """The page is left as without full screen; an answer is sent again."""
    page = reader(browser, up, "ada")
    full_screen(page, "pneumonia-1.jpeg")
    page.route("**/xray/normal-2.jpeg*", lambda route: route.abort(), times=1)
    press(page, "j", "normal-2.jpeg")
    assert not is_full(page)
    full_screen(page, "pneumonia-1.jpeg")
    page.route("**/xray/pneumonia-1.jpeg*", lambda route: route.fulfill(status=500, body="no"), times=1)
    press(page, "1", "normal-2.jpeg")
    assert not is_full(page)
    assert review(page, "pneumonia-1.jpeg") == "agreed"
    page.context.close()


def test_a_refresh_does_not_take_a_note_away(page: Page, up: Up, browser: Browser) -> None:
    page.goto("/xray/normal-1.jpeg")
    page.locator("#note").fill("half a sen")
    other = reader(browser, up, "bob")
    other.goto("/xray/normal-1.jpeg")
    press(other, "2", "normal-1.jpeg")
    page.wait_for_timeout(2500)
    expect(page.locator("#note")).to_have_value("half a sen")
    page.locator("#note").fill("")
    expect(page.get_by_text("bob disagrees (pneumonia)")).to_be_visible(timeout=10_000)
    other.context.close()


def test_two_readers_differ(page: Page, up: Up, browser: Browser) -> None:
    other = reader(browser, up, "bob")
    for one, key in ((page, "1"), (other, "2")):
        one.goto("/xray/normal-2.jpeg")
        press(one, key, "normal-1.jpeg")
    page.goto("/?review=mixed")
    expect(page.locator(".row")).to_have_count(1)
    expect(page.locator(".row .is-read")).to_have_text(re.compile("readers differ: (bob, ada|ada, bob)"))
    press(other, "u", "normal-2.jpeg")
    expect(page.get_by_text("No X-ray matches")).to_be_visible(timeout=10_000)
    other.context.close()


def test_blind_until_the_reader_has_said(up: Up, browser: Browser) -> None:
    page = reader(browser, up, "blind")
    page.get_by_role("button", name="Blind mode").click()
    expect(page.locator(".row", has_text="Hidden")).to_have_count(4)
    for theme in ("dark", "light"):
        assert page.locator("html").get_attribute("data-theme") == theme
        assert violations(page) == []
        page.locator("#theme").click()
    page.goto("/xray/pneumonia-1.jpeg")
    expect(page.get_by_text("verdict and map are hidden")).to_be_visible()
    assert page.locator("#map, #map-data, .gauge, .facts").count() == 0
    assert "pneumonia" not in page.title().replace("pneumonia-1.jpeg", "")
    page.keyboard.press("h")  # there is no map to show
    for theme in ("dark", "light"):
        assert page.locator("html").get_attribute("data-theme") == theme
        assert violations(page) == []
        page.locator("#theme").click()
    press(page, "2", "normal-2.jpeg")
    expect(page.get_by_text("You see no pneumonia; the network says pneumonia.")).to_be_visible()
    expect(page.get_by_text("verdict and map are hidden")).to_be_visible()
    press(page, "k", "pneumonia-1.jpeg")
    expect(page.locator("#map")).to_be_visible()
    assert violations(page) == []
    page.reload()  # the choice is remembered
    expect(page.get_by_role("button", name="Blind mode")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Blind mode").click()
    page.goto("/")
    assert page.locator(".row", has_text="Hidden").count() == 0
    page.context.close()


def test_nothing_is_in_the_way_of_anyone(page: Page) -> None:
    page.goto("/xray/pneumonia-1.jpeg")
    press(page, "2", "normal-2.jpeg")
    for path in ("/", "/?review=disagreed", "/xray/pneumonia-1.jpeg", page.url):
        page.goto(path)
        for _ in ("dark", "light"):
            assert violations(page) == []
            page.locator("#theme").click()


def test_on_a_phone(up: Up, browser: Browser) -> None:
    phone = reader(browser, up, "ada", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for path in ("/", "/xray/pneumonia-1.jpeg"):
        phone.goto(path)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    button = phone.get_by_role("button", name="Agree", exact=False).first
    box = button.bounding_box()
    assert box
    assert box["height"] >= 40
    for part in (button, phone.locator(".headline"), phone.locator("footer.notice p")):
        expect(part).to_be_in_viewport(ratio=1)  # without a scroll
    button.tap()
    expect(phone.get_by_role("heading", level=1)).to_have_text("normal-2.jpeg")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    assert violations(phone) == []
    phone.get_by_role("button", name="Undo").tap()
    expect(phone.get_by_role("heading", level=1)).to_have_text("pneumonia-1.jpeg")
    phone.context.close()


def test_without_script(up: Up, browser: Browser) -> None:
    page = reader(browser, up, "plain", java_script_enabled=False)

    def click(role: Literal["button", "link"], name: str, exact: bool = True) -> None:
        with page.expect_navigation():  # until the styles are there, which hide the buttons for phones
            page.get_by_role(role, name=name, exact=exact).click()

    click("button", "Blind mode", exact=False)
    click("link", "pneumonia-1.jpeg", exact=False)
    page.get_by_label("Note").fill("by hand")
    page.get_by_label("Note").press("Enter")  # answers nothing
    assert page.url.endswith("/xray/pneumonia-1.jpeg")
    click("button", "Pneumonia")
    expect(page.get_by_role("heading", level=1)).to_have_text("normal-2.jpeg")
    click("button", "Undo", exact=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("pneumonia-1.jpeg")
    click("button", "Blind mode", exact=False)
    expect(page.get_by_role("heading", level=1)).to_have_text("pneumonia-1.jpeg")
    click("button", "Disagree")  # another one needs script
    click("link", "Worklist", exact=False)
    click("link", "disagreed", exact=False)
    assert page.locator(".row .name").all_inner_texts() == ["pneumonia-1.jpeg"]
    page.context.close()


def test_a_replaced_file_keeps_its_reviews_as_those_of_the_old_verdict(page: Page, root: Path) -> None:
    page.goto("/xray/normal-1.jpeg")
    press(page, "1", "normal-1.jpeg")
    page.goto("/xray/normal-1.jpeg")
    expect(page.get_by_text("You agree (no pneumonia)")).to_be_visible()
    shutil.copy(SAMPLES / "pneumonia-2.jpeg", root / "inbox" / "normal-1.jpeg")
    expect(page.locator(".headline .state")).to_have_text("Pneumonia", timeout=20_000)
    expect(page.get_by_text("You agreed with the earlier verdict (normal)")).to_be_visible(timeout=10_000)
    assert_accessible(page)
    assert review(page, "normal-1.jpeg") == "unread"
    shutil.copy(SAMPLES / "normal-1.jpeg", root / "inbox" / "normal-1.jpeg")  # while it is on the page
    page.route("**/changes?*", lambda route: route.fulfill(status=204))
    expect(page.locator(".headline .state")).to_have_text(re.compile("Pneumonia|Normal"))
    wait_for(lambda: page.request.get("/api/verdicts/normal-1.jpeg").json()["item"]["label"] == "normal", 20)
    if page.locator(".headline .state").inner_text() == "Pneumonia":
        page.keyboard.press("1")
        expect(page.get_by_text("Your answer was not saved: look again.")).to_be_visible()
        assert review(page, "normal-1.jpeg") == "unread"
