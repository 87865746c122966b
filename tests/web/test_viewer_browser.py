"""The picture of one X-ray in a real browser: window, zoom, map, keys, touch and live refreshes."""

import json
import re
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from tests.support.browsing import complaints_of
from tests.support.fakes import SAMPLES
from tests.support.machines import wait_for
from tests.support.pictures import SAMPLE
from tests.system.test_up import Up

NAME = "pneumonia-1.jpeg"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    (root / "inbox").mkdir()
    return root


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    """Return the address of one judged X-ray."""
    up = Up(root)
    shutil.copy(SAMPLE, root / "inbox" / NAME)
    wait_for(lambda: (root / "outbox" / f"{NAME}.json").exists(), 60)
    yield f"{up.url}/xray/{NAME}"
    up.end()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark")
    complaints = complaints_of(page)
    open_xray(page, url)
    yield page
    page.close()
    assert complaints == []


def open_xray(page: Page, url: str) -> None:
    """Open an X-ray and wait until the script has drawn its map."""
    wait_for(lambda: page.goto(url) is not None and page.locator("#map").count() == 1, 30)
    expect(page.locator("#map-high")).not_to_be_empty()


def box(locator: Locator) -> list[float]:
    found = locator.bounding_box()
    assert found
    return [round(found[side], 2) for side in ("x", "y", "width", "height")]


def drag(page: Page, across: float, down: float, button: Literal["left", "middle"] = "left") -> None:
    left, top, width, height = box(page.locator("#stage"))
    at = (left + width / 2, top + height / 2)
    page.mouse.move(*at)
    page.mouse.down(button=button)
    page.mouse.move(at[0] + across, at[1] + down, steps=4)
    page.mouse.up(button=button)


def shades(page: Page) -> Any:
    """Return the browser's values of a black, a dark, a bright and a white pixel."""
    return page.evaluate(
        """() => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 4, height: 1 });
            const context = canvas.getContext("2d");
            context.filter = document.getElementById("preview").style.filter;
            [0, 64, 192, 255].forEach((gray, x) => {
                context.fillStyle = `rgb(${gray}, ${gray}, ${gray})`;
                context.fillRect(x, 0, 1, 1);
            });
            return [...context.getImageData(0, 0, 4, 1).data].filter((_, at) => at % 4 === 0);
        }"""
    )


def test_dragging_sets_the_window_and_double_click_resets_it(page: Page) -> None:
    preview, reading = page.locator("#preview"), page.locator("#reading")
    drag(page, 1, 1)  # a click with a trembling hand
    expect(preview).to_have_css("filter", "none")
    expect(reading).to_be_empty()
    drag(page, -120, 0)
    expect(reading).to_have_text(re.compile(r"W 1\d\d L 128"))
    assert int(page.locator("#contrast").input_value()) > 0
    drag(page, 0, -90)
    expect(reading).to_have_text(re.compile(r"W 1\d\d L \d\d$"))
    assert int(page.locator("#brightness").input_value()) > 0
    expect(preview).not_to_have_css("filter", "none")
    expect(page.locator("#map")).to_have_css("filter", "none")
    page.locator("#stage").dblclick()
    expect(preview).to_have_css("filter", "none")
    expect(page.locator("#brightness")).to_have_value("0")
    expect(reading).to_be_empty()


def test_the_shades_are_those_of_the_window(page: Page) -> None:
    looks = [(0, 0), (0, 50), (40, -30), (60, 70), (-40, -30), (-60, 70), (100, 0), (-100, 0)]
    for (brightness, contrast), inverted in product(looks, [False, True]):
        page.locator("#brightness").fill(str(brightness))
        page.locator("#contrast").fill(str(contrast))
        if inverted:
            page.keyboard.press("i")
        width, level = 255 * 2 ** (-contrast / 50), 127.5 * (1 - brightness / 100)
        window = [255 * (gray - level + width / 2) / width for gray in (0, 64, 192, 255)]
        expected = [min(max(value, 0), 255) for value in window]
        assert shades(page) == pytest.approx([255 - gray if inverted else gray for gray in expected], abs=3)
        page.keyboard.press("r")


def test_keys_set_the_window_but_not_while_typing(page: Page) -> None:
    brightness, contrast = page.locator("#brightness"), page.locator("#contrast")
    for key in ("b", "b", "Shift+B", "c", "c"):
        page.keyboard.press(key)
    expect(brightness).to_have_value("5")
    expect(contrast).to_have_value("10")
    brightness.focus()
    page.keyboard.press("ArrowRight")
    expect(brightness).to_have_value("6")
    page.keyboard.press("i")
    expect(page.get_by_role("button", name="Invert")).to_have_attribute("aria-pressed", "true")
    page.evaluate("document.getElementById('main').append(document.createElement('input'))")
    page.locator("#main > input").press_sequentially("rh?")
    expect(page.locator("#reading")).to_have_text(re.compile("W .* inverted"))
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#preview")).to_have_css("filter", "none")
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keys and gestures")).to_be_visible()
    page.evaluate("window.sameDocument = true")
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("?")  # the page is still the same one
    assert page.evaluate("window.sameDocument") is True
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_url("**/")


def test_the_wheel_zooms_to_the_pointer_and_the_map_stays_on_the_picture(page: Page) -> None:
    preview, canvas = page.locator("#preview"), page.locator("#map")
    left, top, width, height = box(page.locator("#stage"))
    at = (left + width / 3, top + height / 2)

    def under_pointer() -> tuple[float, float]:
        x, y, wide, high = box(preview)
        return (at[0] - x) / wide, (at[1] - y) / high

    before = under_pointer()
    page.mouse.move(*at)
    page.mouse.wheel(0, -500)
    expect(page.locator("#zoom-now")).to_have_text("2.7\u00d7")
    assert under_pointer() == pytest.approx(before, abs=0.01)
    assert box(canvas) == box(preview)
    page.mouse.wheel(0, -5000)
    expect(page.locator("#zoom-now")).to_have_text("8\u00d7")
    for _ in range(9):  # never out of sight
        drag(page, 400, 300, button="middle")
    x, y, wide, high = box(preview)
    assert y == pytest.approx(top, abs=1)
    assert x <= left + 1
    assert box(canvas) == [x, y, wide, high]
    page.keyboard.press("0")
    assert box(preview) == box(canvas) == [left, top, width, height]


def test_the_zoomed_picture_is_moved_by_dragging_and_by_keys(page: Page) -> None:
    preview = page.locator("#preview")
    for _ in range(4):
        page.get_by_role("button", name="Zoom in").click()
    x, y, wide, _ = box(preview)
    page.get_by_role("button", name="Pan").click()
    drag(page, 60, 40)
    assert box(preview)[:2] == pytest.approx([x + 60, y + 40], abs=1)
    expect(preview).to_have_css("filter", "none")
    page.keyboard.press("d")
    assert box(preview)[0] < x + 60
    page.keyboard.press("-")
    assert box(preview)[2] < wide


def test_the_wheel_scrolls_the_page_where_there_is_nothing_to_zoom(page: Page) -> None:
    page.set_viewport_size({"width": 600, "height": 500})
    page.mouse.move(300, 300)
    page.mouse.wheel(0, 100)
    wait_for(lambda: bool(page.evaluate("scrollY > 0")))
    page.mouse.wheel(0, -50)  # the same turn of the wheel goes on scrolling
    expect(page.locator("#zoom-now")).to_have_text("1\u00d7")


def test_the_slider_fades_the_map_and_h_brings_it_back(page: Page) -> None:
    canvas, slider = page.locator("#map"), page.get_by_label("Map opacity")
    slider.fill("25")
    expect(canvas).to_have_css("opacity", "0.25")
    for opacity in ("0", "0.25"):
        page.keyboard.press("h")
        expect(canvas).to_have_css("opacity", opacity)
    slider.fill("0")
    expect(canvas).to_have_css("opacity", "0")
    expect(page.get_by_role("button", name="Map")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("h")
    expect(canvas).to_have_css("opacity", "0.25")


def test_the_map_is_as_the_reader_left_it_or_off_until_asked(page: Page, url: str) -> None:
    canvas = page.locator("#map")
    page.get_by_label("Map opacity").fill("40")
    open_xray(page, url)
    expect(canvas).to_have_css("opacity", "0.4")
    page.keyboard.press("h")
    open_xray(page, url)
    expect(canvas).to_have_css("opacity", "0")
    page.keyboard.press("h")
    page.get_by_role("button", name="Off until asked").click()
    expect(canvas).to_have_css("opacity", "0.4")
    open_xray(page, url)
    expect(canvas).to_have_css("opacity", "0")
    page.keyboard.press("h")
    expect(canvas).to_have_css("opacity", "0.4")


def test_full_screen_full_width_and_the_full_picture(page: Page) -> None:
    stage, reading = page.locator("#stage"), page.locator("#reading")
    before = box(stage)[2]
    page.keyboard.press("v")
    expect(page.locator("#wide")).to_have_attribute("aria-pressed", "true")
    assert box(stage)[2] > before
    page.keyboard.press("v")
    page.keyboard.press("f")
    page.wait_for_timeout(500)
    assert page.evaluate("document.fullscreenElement?.id") == "xray"
    expect(page.locator(".facts")).to_be_hidden()
    assert box(stage)[2] > 1200
    page.keyboard.press("f")
    expect(page.locator(".facts")).to_be_visible()
    page.keyboard.press("z")
    expect(reading).to_have_text("100 %: 1 image pixel = 1 screen pixel", timeout=60_000)
    page.keyboard.press("z")
    expect(reading).to_have_text(re.compile("full picture, [0-9]+ %"))
    assert page.locator("#preview").evaluate("picture => picture.naturalWidth") == 1000


def test_a_live_refresh_keeps_what_was_set_for_this_picture(page: Page, root: Path) -> None:
    page.get_by_label("Map opacity").fill("30")
    for key in ("b", "+", "i"):
        page.keyboard.press(key)
    now = page.locator("#reading").inner_text()
    page.locator("#preview").evaluate("element => element.dataset.old = 1")
    page.locator("#stage").hover()
    page.mouse.down()
    (root / "inbox" / NAME).unlink()
    page.wait_for_timeout(2000)
    expect(page.locator("#preview")).to_have_attribute("data-old", "1")  # not under a hand that holds it
    page.mouse.up()
    expect(page.get_by_text("The file was deleted from the inbox.")).to_be_visible(timeout=10_000)
    expect(page.locator("#preview")).not_to_have_attribute("data-old", "1")
    expect(page.locator("#reading")).to_have_text(now)
    expect(page.locator("#map")).to_have_css("opacity", "0.3")
    assert box(page.locator("#map")) == box(page.locator("#preview"))
    shutil.copy(SAMPLES / "normal-1.jpeg", root / "inbox" / NAME)  # another picture is shown as it came
    expect(page.locator("#reading")).to_be_empty(timeout=20_000)
    expect(page.locator("#map")).to_have_css("opacity", "0.3")


def test_the_verdict_and_the_hashes_can_be_taken_along(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_text("Full verdict", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == f"{NAME}.json"
    verdict = json.loads(download.value.path().read_bytes())
    typicality = verdict["finding"]["typicality"]
    gauge = page.get_by_role("img", name=f"Distance from training images: {typicality['score']:.0f}")
    expect(gauge.locator(".tick")).to_have_text(
        [f"{typicality['atypical_above']:.0f}", f"{typicality['refused_above']:.0f}"]
    )
    for of, part in (("image", "source"), ("model", "model")):
        page.get_by_role("button", name=f"Copy the SHA-256 of the {of}").click()
        assert page.evaluate("navigator.clipboard.readText()") == verdict[part]["sha256"]
    page.get_by_role("button", name="Copy the full verdict").click()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == verdict


def test_on_a_phone_fingers_zoom_and_nothing_is_too_wide(browser: Browser, url: str) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    open_xray(phone, url)
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    touch = phone.context.new_cdp_session(phone)

    def fingers(kind: str, *across: float) -> None:
        points = [{"x": x, "y": 200, "id": number} for number, x in enumerate(across)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 180, 210)
    for step in range(1, 6):
        fingers("touchMove", 180 - 9 * step, 210 + 9 * step)
    fingers("touchEnd")
    expect(phone.locator("#zoom-now")).to_have_text("4\u00d7")
    expect(phone.locator("#preview")).to_have_css("filter", "none")
    assert box(phone.locator("#map")) == box(phone.locator("#preview"))
    assert phone.evaluate("visualViewport.scale") == 1
    assert violations(phone) == []
    phone.close()


def test_nothing_is_in_the_way_of_anyone(page: Page) -> None:
    assert violations(page) == []
    page.keyboard.press("?")
    page.get_by_text("Full verdict", exact=True).click()
    page.locator("#theme").click()
    page.keyboard.press("?")
    assert violations(page) == []


def violations(page: Page) -> list[str]:
    return [f"{found['id']}: {found['nodes'][0]['html']}" for found in Axe().run(page).response["violations"]]
