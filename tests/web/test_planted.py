"""A planted verdict with impossible content is set aside; everything else goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.verdict import Verdict
from pipeline.worklist.rebuild import rebuild_index
from tests.support import webpage

PLACES = ("/", "/?order=triage", "/xray/good.jpeg", "/api/verdicts", "/api/verdicts.csv", "/api/status")


def at(*names: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Return a function that changes one field."""

    def change(verdict: dict[str, Any]) -> None:
        part = verdict
        for name in names[:-1]:
            part = part[name]
        part[names[-1]] = value

    return change


IMPOSSIBLE = {
    "year 0": at("finished_at", value="0000-01-01T00:00:00Z"),
    "year 1 in another zone": at("started_at", value="0001-01-01T00:00:00+23:00"),
    "year 9999 in another zone": at("finished_at", value="9999-12-31T23:59:59-23:00"),
    "year 99999": at("finished_at", value="99999-01-01T00:00:00Z"),
    "no zone": at("finished_at", value="2026-01-01T00:00:00"),
    "a zone of 25 hours": at("finished_at", value="2026-01-01T00:00:00+25:00"),
    "no number": at("finding", "probability", value=float("nan")),
    "an endless number": at("finding", "map", "grid", value=[[float("inf")]]),
    "less than none": at("source", "size", value=-1),
    "a size of 400 digits": at("source", "size", value=10**400),
    "a release of 400 digits": at("release", "number", value=10**400),
    "half a character in a key": at("source", "key", value="inbox/\ud800"),
    "half a character in a version": at("release", "version", value="\udfff"),
    "a million cells": at("finding", "map", "grid", value=[[0.0] * 1000] * 1000),
    "a ragged map": at("finding", "map", "grid", value=[[0.0], [0.0, 1.0]]),
    "an empty map": at("finding", "map", "grid", value=[]),
    "empty rows": at("finding", "map", "grid", value=[[], []]),
    "wrong types": at("source", value=[1]),
    "no finding": at("finding", value=None),
    "no limit of typicality": at(
        "finding", "typicality", value={"score": 0, "atypical_above": 0, "refused_above": 0}
    ),
}


@pytest.fixture
def base(page: webpage.Page, tmp_path: Path) -> dict[str, Any]:
    """Return a verdict's JSON beside that of another X-ray."""
    page.judged("good.jpeg", b"P1")
    page.judged("base.jpeg", b"Patypical")
    found: dict[str, Any] = json.loads((tmp_path / "data/outbox/base.jpeg.json").read_bytes())
    found["source"]["key"] = "inbox/planted.jpeg"
    return found


def plant(tmp_path: Path, data: bytes, name: str = "planted.jpeg.json") -> None:
    (tmp_path / "data/outbox" / name).write_bytes(data)


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_cannot_be_is_no_verdict(base: dict[str, Any], what: str) -> None:
    Verdict.from_json(json.dumps(base).encode())
    IMPOSSIBLE[what](base)
    with pytest.raises(ValueError, match=r"."):
        Verdict.from_json(json.dumps(base).encode())


@pytest.mark.parametrize(
    "data",
    [b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b'"text"', b"null", b"1" * 5000, b'{"schema": 1e999}'],
)
def test_what_is_no_json_object_is_no_verdict(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Verdict.from_json(data)


def test_the_worklist_is_made_and_shown_without_them(
    page: webpage.Page, base: dict[str, Any], tmp_path: Path
) -> None:
    for number, change in enumerate(IMPOSSIBLE.values()):
        planted = json.loads(json.dumps(base))
        planted["source"]["key"] = f"inbox/{number}"
        change(planted)
        plant(tmp_path, json.dumps(planted).encode(), f"{number}.json")
    (tmp_path / "data/outbox/folder.json").mkdir()
    found = rebuild_index(page.store, page.index)
    assert found.verdicts == 2
    assert found.unreadable == sorted(f"outbox/{number}.json" for number in range(len(IMPOSSIBLE)))
    assert sorted(row.key for row in page.index.all()) == ["inbox/base.jpeg", "inbox/good.jpeg"]
    for place in PLACES:
        page.get(place)


def test_a_megabyte_of_warnings_and_words_is_a_short_row(
    page: webpage.Page, base: dict[str, Any], tmp_path: Path
) -> None:
    message = "=cmd() <b>\n\0\u202e" + "x " * 200_000
    base |= {"status": "rejected", "warnings": ["atypical", "no such", 1, []] * 20_000}
    base["reason"] = {"code": "no such", "message": message}
    plant(tmp_path, json.dumps(base).encode())
    assert rebuild_index(page.store, page.index).unreadable == []
    row = page.index.get("inbox/planted.jpeg")
    assert row is not None
    assert (row.reason, row.warnings) == ("internal", ("atypical",))
    assert row.message is not None
    assert len(row.message) == 300
    assert row.message.startswith("=cmd() <b> ")
    for place in PLACES:
        assert len(page.get(place)) < 50_000
    page.xray("planted.jpeg")
    assert "'=cmd()" in page.get("/api/verdicts.csv")


@pytest.mark.parametrize("key", ["inbox/good.jpeg", "elsewhere/a", ""])
def test_a_verdict_speaks_for_its_own_x_ray_alone(
    page: webpage.Page, base: dict[str, Any], tmp_path: Path, key: str
) -> None:
    """This holds even if the name of a verdict is a hash."""
    before = list(page.index.all())
    base["source"]["key"] = key
    (tmp_path / "data/outbox/name-not-usable").mkdir()
    for name in ("name-not-usable/0.json", "planted.jpeg.json", "../outbox/.json"):
        plant(tmp_path, json.dumps(base).encode(), name)
    rebuild_index(page.store, page.index)
    assert [row.key for row in page.index.all()] == [row.key for row in before]
    assert page.index.get("inbox/good.jpeg").status == "classified"  # type: ignore[union-attr]


def test_a_row_says_the_verdicts_own_sentence(page: webpage.Page) -> None:
    page.judged("bad.jpeg", b"bad")
    for place in ("/", "/xray/bad.jpeg", "/api/verdicts", "/api/verdicts.csv", "/api/verdicts/bad.jpeg"):
        assert "It is damaged. Export it again." in page.get(place)
    page.store.delete("outbox/bad.jpeg.json")
    assert "It is damaged. Export it again." in page.xray("bad.jpeg")


def test_a_row_of_an_older_release_has_the_general_words(page: webpage.Page) -> None:
    page.judged("bad.jpeg", b"bad")
    row = page.index.get("inbox/bad.jpeg")
    assert row is not None
    page.index.record(type(row)(**{**vars(row), "message": None}))
    assert "The image is damaged." in page.get("/")
