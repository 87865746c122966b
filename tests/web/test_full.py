"""The full picture: of the file that was judged, by the decoder alone, and only where there is a preview."""

from pathlib import Path

import pytest

from pipeline.errors import EngineFailed, HostError, InputRejected
from tests.support.webpage import MAX_UPLOAD, Page
from tests.web.test_audit import SECRET, lines
from web.acting import full
from web.app import create_page
from web.audit import Audit


class Decoder:
    """Play the process that decodes."""

    def __init__(self, answer: bytes | Exception | None = b"picture") -> None:
        self.answer, self.seen = answer, list[bytes]()

    def __call__(self, data: bytes) -> bytes | None:
        self.seen.append(data)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def with_full(page: Page, decoder: Decoder, audit: Audit | None = None) -> Page:
    app = create_page(page.store, page.index, MAX_UPLOAD, full_picture=decoder, audit=audit)
    return Page(app.test_client(), page.store, page.index)


def test_it_is_made_once_for_a_reader_and_noted(page: Page, tmp_path: Path) -> None:
    path, decoder = tmp_path / "audit.jsonl", Decoder()
    etag = page.judged("a b.jpeg", b"P")
    asked = with_full(page, decoder, Audit(path, SECRET))
    with asked.client.get(f"/full/a b.jpeg?v={etag}") as answer:
        assert (answer.data, answer.mimetype) == (b"picture", "image/jpeg")
        assert answer.cache_control.private
        tag = answer.headers["ETag"]
    asked.get(f"/full/a b.jpeg?v={etag}", 304, headers={"If-None-Match": tag})
    assert decoder.seen == [b"P"]
    assert [line["action"] for line in lines(path)] == ["full"]
    assert f"/full/a%20b.jpeg?v={etag}" in asked.xray("a b.jpeg")
    page.get(f"/full/a b.jpeg?v={etag}", 404)
    assert "/full/" not in page.xray("a b.jpeg")


def test_only_what_has_a_preview_and_is_as_it_was_judged(page: Page) -> None:
    decoder = Decoder()
    asked = with_full(page, decoder)
    etags = {name: page.judged(f"{name}.jpeg", data) for name, data in (("a", b"P"), ("bad", b"bad"))}
    asked.get("/full/none.jpeg?v=1", 404)
    asked.get(f"/full/bad.jpeg?v={etags['bad']}", 404)
    asked.get("/full/a.jpeg", 409)
    asked.get(f"/full/a.jpeg?v={etags['bad']}", 409)
    page.store.put("inbox/a.jpeg", b"another", etags["a"])
    asked.get(f"/full/a.jpeg?v={etags['a']}", 409)
    page.store.delete("inbox/a.jpeg")
    asked.get(f"/full/a.jpeg?v={etags['a']}", 404)
    assert decoder.seen == []


@pytest.mark.parametrize(
    ("answer", "code", "word"),
    [
        (None, 404, "no preview"),  # text in it may name the patient
        (InputRejected("unreadable", "It is damaged."), 409, "refused"),
        (EngineFailed("took_too_long", "It took too long."), 409, "It took too long."),
        (HostError("shutting down"), 503, "decoder"),
    ],
)
def test_why_there_is_none(page: Page, answer: Exception | None, code: int, word: str) -> None:
    etag = page.judged("a.jpeg", b"P")
    assert word in with_full(page, Decoder(answer)).get(f"/full/a.jpeg?v={etag}", code)


def test_few_at_once(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "_AT_ONCE", 0)
    monkeypatch.setattr(full, "_PATIENCE_SECONDS", 0.01)
    etag = page.judged("a.jpeg", b"P")
    with_full(page, Decoder()).get(f"/full/a.jpeg?v={etag}", 503)
