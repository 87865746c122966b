"""The page in a real browser: Debian's Chromium, driven by playwright."""

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.support.browsing import assert_accessible, complaints_of
from tests.support.fakes import SAMPLES
from tests.support.machines import wait_for
from tests.support.pictures import SAMPLE
from tests.support.webpage import HOSTILE, UNICODE
from tests.system.test_up import Up

FILES = {
    "ward 3/pneumonia-2.jpeg": "pneumonia-2.jpeg",
    "ward 3/normal-1.jpeg": "normal-1.jpeg",
    HOSTILE: "normal-2.jpeg",
    UNICODE: "adult-1.jpeg",
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    root = tmp_path_factory.mktemp("root")
    (root / "inbox" / "ward 3").mkdir(parents=True)
    for name, sample in FILES.items():
        shutil.copy(SAMPLES / sample, root / "inbox" / name)
    (root / "inbox" / "letter.jpeg").write_bytes(b"Dear colleague")
    process = Up(root)
    wait_for(lambda: len(list((root / "outbox").rglob("*.json"))) == len(FILES) + 1, 60)
    yield process
    process.end()


@pytest.fixture
def page(up: Up, browser: Browser) -> Iterator[Page]:
    page = browser.new_page(base_url=up.url, color_scheme="dark")
    complaints = complaints_of(page)
    page.goto("/")
    yield page
    page.close()
    assert complaints == []


def names(page: Page) -> list[str]:
    return page.locator(".row .name").all_inner_texts()


def test_an_upload_becomes_a_verdict_without_a_reload(page: Page) -> None:
    page.evaluate("window.sameDocument = true")
    page.locator("input[type=file]").first.set_input_files(SAMPLE)
    row = page.locator("[data-state]", has_text="pneumonia-1.jpeg")
    expect(row).to_have_attribute("data-state", re.compile("normal|pneumonia|uncertain"), timeout=20_000)
    assert page.evaluate("window.sameDocument") is True


def arrives(page: Page, name: str, sample: str = "uncertain-1.jpeg") -> None:
    """Add an X-ray from outside, and return when its row is there."""
    data = (SAMPLES / sample).read_bytes()
    file = FilePayload(name=name, mimeType="image/jpeg", buffer=data)
    page.request.post("/upload", multipart={"files": file})
    expect(page.locator(".row", has_text=name)).to_have_count(1, timeout=20_000)


@pytest.mark.parametrize("is_hovered", [True, False], ids=["pointer", "focus"])
def test_the_row_at_hand_stays_there_when_others_come(page: Page, is_hovered: bool) -> None:
    link = page.locator(".row .name", has_text="normal-1.jpeg")
    link.hover() if is_hovered else link.focus()
    before = link.bounding_box()
    arrives(page, f"come-{is_hovered}.jpeg")
    assert link.bounding_box() == pytest.approx(before, abs=1)


def test_the_focus_stays_through_a_refresh(page: Page) -> None:
    focused = "document.activeElement.textContent.trim()"
    for number, locator in enumerate((page.get_by_role("link", name="Triage"), page.locator(".chip").nth(2))):
        locator.focus()
        before = page.evaluate(focused)
        arrives(page, f"focus-{number}.jpeg")
        assert page.evaluate(focused).split()[-1] == before.split()[-1]


def test_selected_text_holds_its_part_and_that_is_said(page: Page) -> None:
    page.locator(".row .name", has_text="normal-1.jpeg").select_text()
    data = FilePayload(
        name="held.jpeg", mimeType="image/jpeg", buffer=(SAMPLES / "uncertain-1.jpeg").read_bytes()
    )
    page.request.post("/upload", multipart={"files": data})
    expect(page.get_by_text("Paused while text is selected.")).to_be_visible(timeout=20_000)
    assert page.locator(".row", has_text="held.jpeg").count() == 0
    page.evaluate("getSelection().removeAllRanges()")
    expect(page.locator(".row", has_text="held.jpeg")).to_have_count(1, timeout=20_000)
    expect(page.locator("#lost")).to_be_empty()


def test_a_foreign_answer_ends_nothing(page: Page) -> None:
    """A proxy that asks for a login may answer instead of the page."""
    page.route("**/", lambda route: route.fulfill(body="<p>Log in</p>", content_type="text/html"), times=1)
    page.route("**/changes?*", lambda route: route.fulfill(json={"change": 0}), times=1)
    with page.expect_response(lambda answer: answer.url.endswith("/")) as foreign:
        pass
    assert foreign.value.text() == "<p>Log in</p>"
    arrives(page, "later.jpeg")


def test_a_search_that_broke_off_is_made_good(page: Page) -> None:
    page.route(
        "**/?search=letter", lambda route: route.fulfill(body="<p>Log in</p>", content_type="text/html")
    )
    page.get_by_label("Search by name").fill("letter")
    page.wait_for_url("**/?search=letter")
    assert page.locator(".row").count() > 1
    page.unroute_all()
    expect(page.locator(".row")).to_have_count(1, timeout=20_000)
    page.go_back()
    expect(page.locator(".row")).not_to_have_count(1)


def test_filters_and_search_are_in_the_address(page: Page) -> None:
    page.get_by_role("link", name="rejected").click()
    expect(page.locator(".row")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?state=rejected$"))
    with page.expect_navigation():
        page.get_by_role("link", name="All").click()
    page.get_by_label("Search by name").press_sequentially("WARD norm")
    expect(page.locator(".row")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?search=WARD\+norm$"))
    page.reload()
    assert names(page) == ["ward 3/normal-1.jpeg"]
    page.get_by_label("Search by name").fill("nothing like it")
    expect(page.get_by_text("No X-ray matches")).to_be_visible()
    page.get_by_label("Search by name").fill("")
    expect(page.locator(".row")).not_to_have_count(0)
    page.get_by_role("link", name="Triage").click()
    expect(page).to_have_url(re.compile(r"\?order=triage$"))


def test_the_keyboard_alone_is_enough(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("ward")
    row = page.locator(".row .name").first
    expect(row).to_have_attribute("href", re.compile(r"\?search=ward$"))  # not yet after the first letter
    expect(page.locator(".row")).to_have_count(2)
    first, second = names(page)
    for _ in range(24):  # a date has several places to stop at
        page.keyboard.press("Tab")
        if row.evaluate("link => link === document.activeElement"):
            break
    heading = page.get_by_role("heading", level=1)
    for key, name in (("Enter", first), ("ArrowRight", second), ("ArrowLeft", first)):
        page.keyboard.press(key)
        expect(heading).to_have_text(name)
        page.wait_for_load_state()  # its script has run and hears the next key
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(r"/\?search=ward$"))


def test_the_map_is_drawn_over_the_preview_and_can_be_hidden(page: Page) -> None:
    page.goto("/xray/ward 3/pneumonia-2.jpeg")
    canvas = page.locator("canvas").first
    expect(canvas).to_be_visible()
    painted = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value > 0)"
    assert canvas.evaluate(painted)
    for opacity in ("0", "0.6"):
        page.keyboard.press("h")
        expect(canvas).to_have_css("opacity", opacity)


def test_a_rejected_file_says_what_to_do(page: Page) -> None:
    page.locator("[data-state=rejected]", has_text="letter.jpeg").get_by_role("link").first.click()
    expect(page.locator(".reason")).to_contain_text("Drop a single DICOM, JPEG, PNG, TIFF, BMP or WebP image")


def test_a_rejected_file_is_shown_in_full_screen_too(page: Page) -> None:
    page.goto("/xray/letter.jpeg")
    back, link = ("k", "#next") if page.locator("#next").count() else ("j", "#previous")
    page.goto(page.locator(link).get_attribute("href") or "")
    page.keyboard.press("f")
    wait_for(lambda: bool(page.evaluate("document.fullscreenElement !== null")))
    page.keyboard.press(back)
    expect(page.locator(".reason")).to_be_visible()
    assert page.evaluate("document.fullscreenElement?.id") == "xray"
    page.keyboard.press("f")
    wait_for(lambda: bool(page.evaluate("document.fullscreenElement === null")))


@pytest.mark.parametrize("name", [HOSTILE, UNICODE], ids=["script", "unicode"])
def test_hostile_names_are_text(page: Page, name: str) -> None:
    page.locator(".name", has_text=name).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page.locator("#preview")).to_have_js_property("complete", True)
    assert page.locator("#preview").evaluate("image => image.naturalWidth") > 0
    assert page.locator("img[src=x]").count() == 0


PATHS = ["/", "/?state=failed", "/xray/ward 3/normal-1.jpeg", "/xray/letter.jpeg", "/model", "/statistics"]


@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_nothing_and_a_phone_shows_everything(page: Page, path: str) -> None:
    page.goto(path)
    assert_accessible(page)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(page.locator("footer.notice")).to_be_in_viewport()


def test_axe_finds_nothing_on_an_error_page(up: Up, browser: Browser) -> None:
    page = browser.new_page(base_url=up.url, color_scheme="dark")
    page.goto("/xray/nothing")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert_accessible(page)
    page.close()


GROUND = "getComputedStyle(document.body).backgroundColor"


def test_without_script_the_page_can_be_read(up: Up, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False, base_url=up.url, color_scheme="light")
    page = context.new_page()
    page.goto("/")
    assert page.evaluate(GROUND) == "rgb(244, 246, 248)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(GROUND) == "rgb(10, 13, 17)"
    page.get_by_label("Search by name").fill("letter")
    page.get_by_role("button", name="Search").click()
    assert names(page) == ["letter.jpeg"]
    expect(page.locator(".row time")).to_contain_text("UTC")
    page.locator(".row .name").click()
    expect(page.locator(".reason")).to_be_visible()
    context.close()


def test_statistics_can_be_read_without_script(up: Up, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False, base_url=up.url)
    page = context.new_page()
    page.goto("/")
    page.get_by_role("link", name="Statistics").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Statistics")
    expect(page.locator(".key-figures dd").first).to_have_text(re.compile("[1-9]"))
    page.get_by_role("link", name="12 months").click()
    expect(page.get_by_role("heading", name="Verdicts by month")).to_be_visible()
    page.get_by_text("The figures as a table").click()
    expect(page.get_by_role("region", name="Figures by month")).to_be_visible()
    expect(page.get_by_role("region", name="Comparison")).to_contain_text("too few X-rays")
    context.close()


def test_a_replaced_file_shows_its_earlier_verdict(page: Page, up: Up) -> None:
    file = up.root / "inbox" / "again.jpeg"
    file.write_bytes(b"Dear colleague")
    wait_for(lambda: (up.root / "outbox" / "again.jpeg.json").exists(), 30)
    page.goto("/xray/again.jpeg")
    expect(page.locator(".reason")).to_be_visible()
    expect(page.locator("#earlier")).to_have_count(0)
    shutil.copy(SAMPLES / "normal-1.jpeg", file)
    earlier = page.locator("#earlier li")
    expect(earlier).to_have_count(1, timeout=30_000)
    expect(earlier).to_contain_text("Rejected")
    expect(earlier).to_contain_text("An earlier file")
    assert_accessible(page)


def test_times_are_those_of_the_viewer(up: Up, browser: Browser) -> None:
    said = []
    for zone in ("Asia/Kolkata", "America/Lima"):
        context = browser.new_context(timezone_id=zone, base_url=up.url, locale="en-GB")
        page = context.new_page()
        page.goto("/xray/letter.jpeg")
        said.append(page.locator("time[data-style=both]").inner_text().split(" (")[0])
        page.goto("/")
        said.append(page.locator(".day g:last-of-type title").text_content() or "")
        context.close()
    assert len(set(said)) == 4
    assert ":30:00:" in said[1]  # the hour begins at half past there
