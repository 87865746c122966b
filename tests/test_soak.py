"""The soak's checker finds each kind of harm, and its proxy fails as told."""

import hashlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from PIL import Image

from bench.soak import checker
from bench.soak.load import Images, Load
from bench.soak.proxy import Proxy
from model.serve.engine import Engine
from pipeline.errors import InputRejected
from pipeline.judge import Judge
from pipeline.records import Examination, Job
from pipeline.verdict import Release
from tests.support import pictures
from tests.support.fakes import LIMIT, SAMPLES, FakeEngine, MemoryStore
from tests.support.receiver import receiving


class Kept:
    """Show a store to the checker, with what it held before."""

    def __init__(self, store: MemoryStore) -> None:
        self.objects, self.before = store.objects, dict[str, list[bytes]]()

    def keys(self, prefix: str) -> Iterable[str]:
        return [key for key in self.objects if key.startswith(prefix)]

    def read(self, key: str) -> bytes:
        return self.objects[key]

    def etag(self, key: str) -> str:
        return hashlib.md5(self.objects[key], usedforsecurity=False).hexdigest()

    def versions(self, key: str) -> Iterable[bytes]:
        return [*self.before.get(key, []), self.objects[key]]


class Pictured(FakeEngine):
    """Answer with a preview that is a picture."""

    def examine(self, data: bytes) -> Examination:
        if not data.startswith((b"P", b"N")):
            raise InputRejected("unreadable", "It is damaged. Export it again.")
        return replace(super().examine(data), preview=pictures.encoded(Image.new("L", (8, 8)), "JPEG"))


@pytest.fixture
def kept() -> Kept:
    """Provide three judged objects, and a verdict whose object was deleted."""
    store = MemoryStore()
    judge = Judge(store, Pictured(), Release(), LIMIT)
    for name, data in {"a.jpeg": b"P1", "ward/b": b"N", "c.png": b"not an image", "gone": b"P"}.items():
        store.objects[f"inbox/{name}"] = data
        judge.judge(Job(f"inbox/{name}"))
    del store.objects["inbox/gone"]
    return Kept(store)


def checked(kept: Kept) -> dict[str, list[str]]:
    """Return what is found, without judging again."""
    found = checker.check(kept, again=0)
    return {name: getattr(found, name) for name in checker.HARM if getattr(found, name)}


def test_it_finds_nothing_where_all_is_well(kept: Kept) -> None:
    found = checker.check(kept, again=0)
    assert found.is_clean
    expected = {"objects": 3, "classified": 2, "rejected": 1, "orphans": 1, **dict.fromkeys(checker.HARM, 0)}
    assert found.figures() == expected


def _changed(kept: Kept, name: str, **changes: object) -> None:
    verdict = json.loads(kept.objects[name])
    kept.objects[name] = json.dumps({**verdict, **changes}).encode()


def _source(kept: Kept, name: str, **changes: object) -> None:
    _changed(kept, name, source={**json.loads(kept.objects[name])["source"], **changes})


def _judged_twice(kept: Kept) -> None:
    kept.before["outbox/a.jpeg.json"] = [kept.objects["outbox/a.jpeg.json"]]


def _preview(kept: Kept) -> str:
    return str(json.loads(kept.objects["outbox/a.jpeg.json"])["preview_key"])


@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        ("lost", lambda kept: kept.objects.pop("outbox/ward/b.json")),
        ("stale", lambda kept: kept.objects.update({"inbox/a.jpeg": b"P2"})),
        ("doubled", _judged_twice),
        ("damaged", lambda kept: kept.objects.update({"outbox/a.jpeg.json": b"{"})),
        ("damaged", lambda kept: _changed(kept, "outbox/a.jpeg.json", status="perhaps")),
        ("damaged", lambda kept: _changed(kept, "outbox/a.jpeg.json", status="rejected")),
        ("damaged", lambda kept: _source(kept, "outbox/a.jpeg.json", key="inbox/b.jpeg")),
        ("damaged", lambda kept: _source(kept, "outbox/a.jpeg.json", sha256="0" * 64)),
        ("damaged", lambda kept: kept.objects.pop(_preview(kept))),
        ("damaged", lambda kept: kept.objects.update({_preview(kept): b"\xff\xd8 half of a picture"})),
        ("damaged", lambda kept: kept.objects.update({"outbox/.tmp-1": b"left behind"})),
    ],
)
def test_it_finds_one_kind_of_harm(kept: Kept, kind: str, harm: Callable[[Kept], object]) -> None:
    harm(kept)
    assert {name: len(keys) for name, keys in checked(kept).items()} == {kind: 1}


def test_an_inbox_that_is_not_as_it_was_dropped(kept: Kept) -> None:
    of = {name: hashlib.sha256(kept.objects[f"inbox/{name}"]).hexdigest() for name in ("a.jpeg", "ward/b")}
    assert checker.check(kept, 0, of | {"open": None, "c.png": None}).is_clean
    found = checker.check(kept, 0, {"a.jpeg": of["ward/b"], "dropped": of["ward/b"]})
    assert (found.damaged, found.lost) == (["a.jpeg, in the inbox"], ["dropped, from the inbox"])


def test_a_second_try_after_a_failure_is_no_doubling(kept: Kept) -> None:
    failed = {**json.loads(kept.objects["outbox/a.jpeg.json"]), "status": "failed"}
    kept.before["outbox/a.jpeg.json"] = [json.dumps(failed).encode()]
    assert not checked(kept)


@pytest.mark.whole
def test_it_asks_a_new_process_what_the_bytes_are_judged_as() -> None:
    store = MemoryStore()
    judge = Judge(store, Engine(), Release(), LIMIT)
    for name in ("normal-1", "pneumonia-1"):
        store.objects[f"inbox/{name}"] = (SAMPLES / f"{name}.jpeg").read_bytes()
        judge.judge(Job(f"inbox/{name}"))
    kept = Kept(store)
    assert checker.check(kept).is_clean
    others = json.loads(kept.objects["outbox/pneumonia-1.json"])["finding"]
    _changed(kept, "outbox/normal-1.json", finding=others)
    assert checker.check(kept).wrong == ["inbox/normal-1: classified pneumonia, but then classified normal"]


def test_names_are_found_in_logs_whatever_their_case(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("nothing of interest")
    (tmp_path / "bad").write_text("judged BEEBLEBROX 1.jpeg")
    assert checker.holding([b"Beeblebrox"], sorted(tmp_path.iterdir())) == ["bad"]


def test_the_load_does_the_same_for_the_same_seed(tmp_path: Path) -> None:
    class Place:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def write(self, name: str, data: bytes) -> None:
            self.seen.append((name, hashlib.sha256(data).hexdigest()))
            if len(self.seen) >= 40:
                load.stopping.set()

        def write_slowly(self, name: str, data: bytes) -> None:
            self.write(name, data)

        def delete(self, name: str) -> None:
            self.seen.append(name)

    seen = []
    for _ in range(2):
        chance, place = random.Random("7"), Place()
        load = Load(place, Images(chance), chance, 1e6)
        load.run()
        seen.append(place.seen[:40])
    assert seen[0] == seen[1]


def test_the_proxy_fails_in_every_way() -> None:
    with receiving() as receiver:
        proxy = Proxy(receiver.url, random.Random(2))
        try:
            assert urlopen(proxy.url, b"x", timeout=20).status == 204
            proxy.trouble = 1
            seen = set()
            for _ in range(12):
                before = len(receiver.bodies)
                try:
                    urlopen(proxy.url, b"x", timeout=20).close()
                    came = "answered"
                except HTTPError as error:
                    came = str(error.code)
                except (OSError, HTTPException):
                    came = "cut"
                seen.add((came, len(receiver.bodies) - before))
        finally:
            proxy.stop()
    assert seen == {("answered", 1), ("503", 0), ("cut", 0), ("cut", 1)}
    assert proxy.failed == 12
