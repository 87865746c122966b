"""Previews, and the requests by which the script keeps a view up to date."""

import json
import re
from dataclasses import replace
from html import unescape
from urllib.parse import quote

from pipeline.names import preview_key, verdict_key
from tests.support.webpage import Page

# The preview


def test_a_preview_is_kept_by_the_browser_for_ever(page: Page) -> None:
    etag = page.judged("a.jpeg", b"P")
    with page.client.get(f"/preview/a.jpeg?v={etag}") as answer:
        assert answer.data == b"preview of P"
        assert answer.mimetype == "image/jpeg"
        cache = answer.cache_control
        assert (cache.private, cache.immutable, cache.max_age) == (True, True, 365 * 24 * 3600)
        tag = answer.headers["ETag"]
    assert page.get(f"/preview/a.jpeg?v={etag}", 304, headers={"If-None-Match": tag}) == ""
    with page.client.get("/preview/a.jpeg") as answer:
        assert answer.data == b"preview of P"
        assert answer.cache_control.no_cache
        assert answer.cache_control.max_age is None


def test_a_preview_is_never_anything_else(page: Page) -> None:
    page.judged("bad.jpeg", b"bad")
    page.judged("a.jpeg", b"P")
    page.get("/preview/bad.jpeg", 404)
    page.get("/preview/nothing.jpeg", 404)
    for version in ("", "0" * 32, "../../../inbox/a", "x.jpg/../y"):
        page.get(f"/preview/a.jpeg?v={quote(version)}", 404)
    row = page.index.get("inbox/a.jpeg")
    assert row
    for forged in ("inbox/a.jpeg", verdict_key("inbox/a.jpeg"), preview_key("inbox/bad.jpeg", "0" * 32)):
        page.index.record(replace(row, preview_key=forged))
        page.get("/preview/a.jpeg", 404)


# Live


def test_changes_say_when_a_view_is_out_of_date(page: Page) -> None:
    page.get("/changes?since=0", 204)
    page.judged("a.jpeg", b"P")
    last = page.index.last_change()
    assert json.loads(page.get("/changes?since=0")) == {"change": last}
    page.get(f"/changes?since={last}", 204)
    assert json.loads(page.get("/changes?since=nonsense")) == {"change": last}


def test_one_xray_is_out_of_date_by_its_own_changes_alone(page: Page) -> None:
    page.judged("a b.jpeg", b"P")
    watch = re.search(r'data-watch="(.*?)"', page.xray("a b.jpeg"))
    assert watch
    page.get(unescape(watch[1]), 204)
    page.judged("other.jpeg", b"P")
    page.get(unescape(watch[1]), 204)
    page.index.mark("inbox/a b.jpeg", "deleted")
    page.get(unescape(watch[1]), 200)
    assert json.loads(page.get("/changes?since=5&name=nothing")) == {"change": 0}
