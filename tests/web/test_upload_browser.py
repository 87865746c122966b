"""Uploads in a real browser: many at once, folders, local refusals, and straight to a bucket."""

import base64
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect
from werkzeug.serving import make_server

from pipeline.intake import record_verdict
from pipeline.judge import give_up
from pipeline.names import verdict_key
from pipeline.records import Job
from pipeline.store.folder import PRIVATE_FOLDER, FolderStore
from pipeline.store.s3 import S3Store
from pipeline.worklist.sqlite import SqliteIndex
from tests.support import buckets, dicoms, pictures
from tests.support.browsing import complaints_of
from tests.support.webpage import RELEASE
from tests.system.test_up import Up, varied
from web.app import create_page

JUDGED = re.compile("normal|pneumonia|uncertain|rejected")
WATCH = """
  window.most = 0;
  window.shares = [];
  const uploads = document.getElementById("uploads");
  new MutationObserver(() => {
    window.most = Math.max(window.most, uploads.querySelectorAll("li").length);
    window.shares.push(uploads.querySelector(".overall progress").value);
  }).observe(uploads, { childList: true, subtree: true, attributes: true });
"""
PDF = {"name": "letter.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return the page's address and its root."""
    root = tmp_path_factory.mktemp("root")
    (root / "inbox").mkdir()
    process = Up(root, threads=2)
    yield process.url, root
    process.end()


@contextmanager
def opened(browser: Browser, url: str, expected: str = "nothing") -> Iterator[tuple[Page, list[Request]]]:
    """Open the page and collect its POST requests; fail on complaints that are not expected."""
    page = browser.new_page()
    complaints, posts = complaints_of(page), list[Request]()
    page.on("request", lambda request: posts.append(request) if request.method == "POST" else None)
    page.goto(url)
    yield page, posts
    assert [complaint for complaint in complaints if expected not in complaint] == []
    page.close()


def choose(page: Page, *files: object, folder: bool = False) -> None:
    page.locator("input[type=file]").nth(int(folder)).set_input_files(files[0] if folder else list(files))  # type: ignore[arg-type]


def test_thirty_files_at_once_become_thirty_verdicts(
    browser: Browser, up: tuple[str, Path], tmp_path: Path
) -> None:
    for number in range(30):
        (tmp_path / f"many-{number}.jpeg").write_bytes(varied(number))
    with opened(browser, up[0]) as (page, posts):
        page.evaluate(WATCH)
        choose(page, *sorted(tmp_path.iterdir()))
        expect(page.locator("#uploads .count")).to_have_text("30 of 30 uploaded", timeout=30_000)
        expect(page.locator("#uploads [role=status]")).to_have_text("30 of 30 uploaded")
        assert page.locator("#uploads .overall progress").evaluate("bar => bar.value") == 1
        expect(page.locator("#uploads")).to_be_hidden()  # by itself
        rows = page.locator('[data-key^="inbox/many-"]')
        expect(rows).to_have_count(30)
        for number in range(30):
            found = page.locator(f'[data-key="inbox/many-{number}.jpeg"]')
            expect(found).to_have_attribute("data-state", JUDGED, timeout=30_000)
        assert len(posts) == 30
        assert 1 < page.evaluate("window.most") <= 3
        shares = page.evaluate("window.shares")
        assert shares == sorted(shares)  # the bar only grows
        assert len(set(shares)) > 10


def test_what_is_no_image_is_refused_without_a_request(browser: Browser, up: tuple[str, Path]) -> None:
    with opened(browser, up[0]) as (page, posts):
        empty = {"name": "nothing.jpeg", "mimeType": "image/jpeg", "buffer": b""}
        choose(page, PDF, empty)
        told = page.locator("#uploads .is-refused")
        expect(told).to_have_text(
            [
                "letter.pdfThis is a PDF. Export the X-ray as DICOM, PNG or JPEG and upload that.",
                "nothing.jpegThe file is empty. Export the X-ray again and upload that.",
            ]
        )
        expect(page.locator("#uploads .count")).to_have_text("0 of 2 uploaded, 2 refused")
        assert posts == []
        page.get_by_role("button", name="Close").click()
        expect(page.locator("#uploads")).to_be_hidden()


OTHERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PDF": ("a PDF", pictures.BAD["PDF"][1]),
    "ZIP": ("ZIP archive or an Office document", pictures.BAD["ZIP"][1]),
    "SVG": ("HTML, XML or SVG", pictures.BAD["SVG"][1]),
    "HTML": ("HTML, XML or SVG", lambda: "\ufeff\n<!doctype html><title>é</title>".encode()),
    "text": ("plain text", pictures.BAD["text named .jpeg"][1]),
    "long text, cut within a letter": ("plain text", lambda: b"x" * 511 + "é".encode() * 500),
    "MP4": ("video or a HEIC photo", lambda: b"\0\0\0\x20ftypisom\0\0\2\0"),
    "HEIC": ("video or a HEIC photo", lambda: b"\0\0\0\x18ftypheic\0\0\0\0"),
    "program": ("a program", lambda: b"MZ\x90\0\3\0\0\0"),
    "old Word": ("Office document", lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 90),
    "gzip": ("an archive", lambda: b"\x1f\x8b\x08\0\0\0\0\0"),
}
UNKNOWN = ("noise of bytes", "DICOM without an image", "truncated JPEG", "animated GIF")


def test_the_browser_knows_what_is_something_else(browser: Browser, up: tuple[str, Path]) -> None:
    good = pictures.GOOD | {"DICOM": dicoms.dicom, "no preamble": lambda: dicoms.dicom()[132:]}
    good |= {name: pictures.BAD[name][1] for name in UNKNOWN}
    good["mark after a PDF's"] = lambda: b"%PDF-1.7\n".ljust(128, b"\0") + b"DICM" + b"\2\0\0\0UL\4\0"
    every = good | {name: make for name, (_, make) in OTHERS.items()}
    heads = {name: base64.b64encode(make()[:4096]).decode() for name, make in every.items()}
    script = """async (heads) => {
      const { refusal } = await import("/static/upload.js");
      const said = {};
      for (const [name, head] of Object.entries(heads)) {
        const bytes = Uint8Array.from(atob(head), (letter) => letter.charCodeAt(0));
        said[name] = await refusal(new File([bytes], name), 4096);
      }
      said.large = await refusal(new File([new Uint8Array(4097)], "large"), 4096);
      said.unreadable = await refusal(null, 4096);
      return said;
    }"""
    with opened(browser, up[0]) as (page, _):
        said = page.evaluate(script, heads)
    assert {name: said[name] for name in good} == dict.fromkeys(good)
    for name, (what, _) in OTHERS.items():
        assert re.fullmatch(rf"This is .*{what}\. [A-Z].*\.", said[name]), (name, said[name])
    assert said["large"].startswith("The file is larger than")
    assert said["unreadable"].startswith("The file or folder cannot be read.")


def test_a_folder_is_uploaded_with_its_paths(browser: Browser, up: tuple[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "ward 3"
    (folder / "bed 1").mkdir(parents=True)
    (folder / "bed 1" / "a.jpeg").write_bytes(varied(50))
    (folder / "b.jpeg").write_bytes(varied(51))
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "report.pdf").write_bytes(b"%PDF-1.7")
    with opened(browser, up[0]) as (page, posts):
        choose(page, folder, folder=True)
        expect(page.locator("#uploads .count")).to_have_text("2 of 3 uploaded, 1 refused")
        for name in ("bed 1/a.jpeg", "b.jpeg"):
            found = page.locator(f'[data-key="inbox/ward 3/{name}"]')
            expect(found).to_have_attribute("data-state", JUDGED, timeout=20_000)
        assert len(posts) == 2


def test_a_dropped_file_is_uploaded_and_a_second_of_its_name_is_told_apart(
    browser: Browser, up: tuple[str, Path]
) -> None:
    drop = """(parts) => {
      const carried = new DataTransfer();
      for (const part of parts) carried.items.add(new File([part], "drop.bin"));
      for (const kind of ["dragenter", "dragover", "drop"]) {
        document.body.dispatchEvent(
          new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
      }
    }"""
    with opened(browser, up[0]) as (page, _):
        page.evaluate(drop, ["\x00one", "\x00two"])
        expect(page.locator("#uploads .told li")).to_have_text(["drop.binwas saved as drop (2).bin"])
        expect(page.locator("#uploads .count")).to_have_text("2 of 2 uploaded")
        expect(page.locator("body")).not_to_have_class("is-dragging")


def test_progress_is_shown_and_can_be_cancelled_and_leaving_warns(
    browser: Browser, up: tuple[str, Path]
) -> None:
    noise = {"mimeType": "image/jpeg", "buffer": b"\xff\xd8\xff" + b"\0" * 3000}
    with opened(browser, up[0], "ERR_") as (page, posts):
        page.route("**/upload", lambda route: None)  # the answer never comes
        choose(page, *({"name": f"held-{number}.jpeg", **noise} for number in range(5)))
        expect(page.locator("#uploads .at-work progress")).to_have_count(3)
        expect(page.get_by_role("progressbar", name="Upload of held-0.jpeg")).to_be_visible()
        expect(page.locator("#uploads .count")).to_have_text("0 of 5 uploaded")
        leaving = "!dispatchEvent(new Event('beforeunload', { cancelable: true }))"
        assert page.evaluate(leaving) is True
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#uploads .count")).to_have_text("0 of 5 uploaded, 5 cancelled")
        expect(page.locator("#uploads .at-work li")).to_have_count(0)
        assert page.locator("#uploads .overall progress").evaluate("bar => bar.value") < 1
        assert page.evaluate(leaving) is False
        assert len(posts) == 3
        page.unroute("**/upload")
        choose(page, {"name": "after.jpeg", **noise})
        expect(page.locator("#uploads .count")).to_have_text("1 of 1 uploaded")


def test_a_failed_one_is_judged_again_by_its_button(browser: Browser, up: tuple[str, Path]) -> None:
    url, root = up
    name, key = "fails.jpeg", "inbox/fails.jpeg"
    with opened(browser, url) as (page, _):
        choose(page, {"name": name, "mimeType": "image/jpeg", "buffer": varied(60)})
        found = page.locator(f'[data-key="{key}"]')
        expect(found).to_have_attribute("data-state", JUDGED, timeout=20_000)
        store, index = FolderStore(root), SqliteIndex(root / PRIVATE_FOLDER / "index.sqlite")
        store.delete(verdict_key(key))
        give_up(store, RELEASE, Job(key), "internal", "It could not be judged.")
        record_verdict(verdict_key(key), store, index)
        index.close()
        page.goto(f"{url}/xray/{name}")
        expect(page.locator(".answer.is-failed")).to_be_visible()
        page.get_by_role("button", name="Judge again").click()
        expect(page).to_have_url(f"{url}/xray/{name}")
        expect(page.locator(".gauge").first).to_be_visible(timeout=20_000)


# Straight to a bucket


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, S3Store]]:
    """Return the address of a bucket's page, and the bucket."""
    with buckets.moto() as moto, buckets.bucket(moto, monkeypatch) as store:
        index = SqliteIndex(tmp_path / "index.sqlite")
        server = make_server("127.0.0.1", 0, create_page(store, index, 10_000, tickets=store), threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", store
        server.shutdown()
        thread.join(10)
        server.server_close()
        index.close()


def inbox(store: S3Store) -> dict[str, bytes]:
    found = [store.get(info.key, 10_000) for info in store.list("inbox/")]
    return {one[0].key: one[1] for one in found if one}


def test_files_go_straight_to_the_bucket_and_a_taken_name_through_the_page(
    browser: Browser, bucket: tuple[str, S3Store]
) -> None:
    url, store = bucket
    store.put("inbox/taken.bin", b"\0first", None)
    with opened(browser, url, "409") as (page, posts):
        names = {"Röntgen.bin": b"\0new", "taken.bin": b"\0other", "same.bin": b"\0same"}
        choose(page, *({"name": n, "mimeType": "image/png", "buffer": data} for n, data in names.items()))
        expect(page.locator("#uploads .count")).to_have_text("3 of 3 uploaded")
        choose(page, {"name": "same.bin", "mimeType": "image/png", "buffer": b"\0same"})
        expect(page.locator("#uploads .count")).to_have_text("0 of 1 uploaded, 1 already there")
    assert inbox(store) == {
        "inbox/Röntgen.bin": b"\0new",
        "inbox/same.bin": b"\0same",
        "inbox/taken.bin": b"\0first",
        "inbox/taken (2).bin": b"\0other",
    }
    assert sum(post.url.startswith(store.origin) for post in posts) == 2
    assert sum(post.url == f"{url}/upload" for post in posts) == 2


def test_where_the_bucket_cannot_be_reached_the_page_takes_the_files(
    browser: Browser, bucket: tuple[str, S3Store]
) -> None:
    url, store = bucket
    with opened(browser, url, "ERR_FAILED") as (page, posts):
        page.route(f"{store.origin}/**", lambda route: route.abort())  # like a bucket without this origin
        choose(page, {"name": "a.bin", "mimeType": "image/png", "buffer": b"\0a"})
        expect(page.locator("#uploads .count")).to_have_text("1 of 1 uploaded")
        choose(page, {"name": "b.bin", "mimeType": "image/png", "buffer": b"\0b"})
        expect(page.locator("#uploads .count")).to_have_text("1 of 1 uploaded")
        expect(page.locator("#uploads .at-work li")).to_have_count(0)
        assert inbox(store) == {"inbox/a.bin": b"\0a", "inbox/b.bin": b"\0b"}
        assert sum(post.url.startswith(store.origin) for post in posts) == 1  # it is not asked in vain again
