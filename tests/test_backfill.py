"""An archive judged at once: every image once, whatever breaks, and as the inbox would have it."""

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import cxr
from handlers import progress, wiring
from handlers.archive import open_archive
from pipeline.archive import ArchiveStore, Place
from pipeline.backfill import Backfill, Done, Tally
from pipeline.errors import StoreError, UsageError
from pipeline.folder import FolderStore
from pipeline.judge import Judge
from pipeline.parallel import unordered
from pipeline.ports import Job
from pipeline.s3 import S3Store
from pipeline.verdict import ModelRef, Release, Verdict
from tests import pictures, test_cli
from tests.fakes import LIMIT, FakeEngine, MemoryStore, make_judge
from tests.test_up import varied
from tests.test_watch import wait_for

TIMES = {"started_at", "finished_at", "timing_ms"}
COUNT = 60


class MemoryArchive(MemoryStore):
    """A store in memory whose listing has ETags, as that of a bucket."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.objects.update(objects)
        self.read: Counter[str] = Counter()
        self.broken: Callable[[str], bool] = lambda key: False

    def jobs(self, prefix: str) -> Iterator[Job]:
        return (Job(info.key, info.etag) for info in self.list(prefix))

    def head(self, key: str) -> Any:
        self.read[key] += 1
        return super().head(key)

    def get(self, key: str, limit: int) -> Any:
        self.read[key] += 1
        if self.broken(key):
            raise StoreError("it is away")
        return super().get(key, limit)


def run(store: ArchiveStore, engine: FakeEngine | None = None, release: int = 1) -> list[Done]:
    judge = Judge(
        store, engine or FakeEngine(), Release(number=release, version="test"), LIMIT, upgrades=True
    )
    return list(Backfill(judge, 2, pauses=(0, 0)).run(store.jobs()))


def results(answers: Iterable[Done]) -> dict[str, str]:
    return {done.key: done.result for done in answers}


def archive(objects: dict[str, bytes]) -> tuple[ArchiveStore, MemoryArchive, MemoryStore]:
    source, outbox = MemoryArchive({f"old/{name}": data for name, data in objects.items()}), MemoryStore()
    return ArchiveStore(Place(source, "old/"), Place(outbox, "new/")), source, outbox


def verdicts(outbox: Path) -> dict[str, Verdict]:
    paths = (path for path in outbox.rglob("*.json") if ".previews" not in path.parts)
    return {path.relative_to(outbox).as_posix(): Verdict.from_json(path.read_bytes()) for path in paths}


def said(verdict: Verdict) -> str:
    return verdict.model_dump_json(exclude=TIMES)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of samples and of files that are none."""
    folder = tmp_path / "scans"
    (folder / "2019/ward 3").mkdir(parents=True)
    for number in range(4):
        (folder / f"2019/ward 3/{number}.jpeg").write_bytes(varied(number))
    for name, (_, make) in pictures.BAD.items():
        (folder / name).write_bytes(make())
    (folder / ".DS_Store").write_bytes(b"hidden")
    return folder


def test_every_image_gets_its_verdict_in_its_place() -> None:
    store, source, outbox = archive({"a": b"P1", "b/c": b"N1", "b/d": b"bad", "boom": b"boom"})
    before = dict(source.objects)
    answers = run(store)
    expected = {"a": "classified", "b/c": "classified", "b/d": "rejected", "boom": "given_up"}
    assert results(answers) == {f"inbox/{name}": result for name, result in expected.items()}
    names = {name for name in outbox.objects if name.endswith(".json")}
    assert names == {"new/a.json", "new/b/c.json", "new/b/d.json", "new/boom.json"}
    assert Verdict.from_json(outbox.objects["new/boom.json"]).status == "failed"
    preview = Verdict.from_json(outbox.objects["new/a.json"]).preview_key
    assert preview is not None
    assert outbox.objects[preview.replace("outbox/", "new/")] == b"preview of P1"
    assert source.objects == before
    assert {(done.label, done.reason) for done in answers if done.key != "inbox/boom"} == {
        ("pneumonia", None),
        ("normal", None),
        (None, "unreadable"),
    }


def test_what_has_its_verdict_is_neither_read_nor_judged() -> None:
    store, source, _ = archive({"a": b"P1", "bad": b"bad", "boom": b"boom"})
    run(store)
    source.read.clear()
    engine = FakeEngine()
    assert results(run(store, engine)) == {
        "inbox/a": "current",
        "inbox/bad": "current",
        "inbox/boom": "given_up",  # tried again: a failed verdict is never current
    }
    assert set(source.read) == {"old/boom"}
    assert engine.examined == 3  # the tries of that one


def test_a_replaced_image_is_judged_again() -> None:
    store, source, _ = archive({"a": b"P1", "b": b"P2"})
    run(store)
    source.objects["old/a"] = b"N1"
    assert results(run(store)) == {"inbox/a": "classified", "inbox/b": "current"}


def test_a_later_release_or_another_network_judges_again_and_an_earlier_one_never() -> None:
    class Other(FakeEngine):
        model = ModelRef(name="other", version="1", sha256="1" * 64, engine="fake")

    store, _, _ = archive({"a": b"P1"})
    turns = [
        (FakeEngine(), 1),
        (FakeEngine(), 1),
        (FakeEngine(), 2),
        (Other(), 1),
        (Other(), 2),
        (Other(), 2),
    ]
    found = [run(store, engine, release)[0].result for engine, release in turns]
    assert found == ["classified", "current", "classified", "current", "classified", "current"]


def test_the_judge_of_every_day_leaves_another_networks_verdict_alone() -> None:
    store = MemoryStore()
    store.put("inbox/a", b"P1", None)
    judge = make_judge(store)
    judge.judge(Job("inbox/a"))
    judge.engine.model = ModelRef(name="other", version="1", sha256="1" * 64, engine="fake")
    assert Judge(store, judge.engine, judge.release, LIMIT).judge(Job("inbox/a")).result == "current"


def test_a_store_that_fails_now_and_then_loses_nothing() -> None:
    store, source, _ = archive({str(number): b"P%d" % number for number in range(20)})
    failed: Counter[str] = Counter()

    def twice(key: str) -> bool:
        failed[key] += 1
        return failed[key] <= 2

    source.broken = twice
    assert set(results(run(store)).values()) == {"classified"}
    assert len(failed) == 20


def test_a_store_that_is_away_ends_it_with_what_to_do() -> None:
    tally, lost = Tally(), Done("inbox/a", "failed", "it is away")
    for done in [lost] * 99 + [Done("inbox/b", "classified")] + [lost] * 99:
        tally.add(done)
    with pytest.raises(StoreError, match=r"100 images in a row .* run the same command again"):
        tally.add(lost)


def test_few_jobs_are_taken_ahead() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with ThreadPoolExecutor(2) as pool:
        answers = unordered(pool, lambda number: number, endless(), 8)
        first = [next(answers) for _ in range(100)]  # type: ignore[call-overload]
        assert len(set(first)) == 100
        assert taken <= 100 + 8
        answers.close()  # type: ignore[attr-defined]
        assert taken <= 100 + 8


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"P1", b"N1", b"bad"])),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([b"P1", b"N1", b"bad"])),
    st.sets(st.sampled_from("abcdef")),
)
def test_whatever_was_judged_before_only_the_rest_is_judged(
    before: dict[str, bytes], now: dict[str, bytes], lost: set[str]
) -> None:
    store, source, outbox = archive(before)
    run(store)
    for name in lost:
        outbox.objects.pop(f"new/{name}.json", None)
    source.objects = {f"old/{name}": data for name, data in now.items()}
    due = {name for name in now if name in lost or before.get(name) != now[name]}
    assert {
        key.removeprefix("inbox/") for key, result in results(run(store)).items() if result != "current"
    } == due
    for name, data in now.items():
        etag = Verdict.from_json(outbox.objects[f"new/{name}.json"]).source.etag
        assert etag == hashlib.md5(data).hexdigest()


def command(*arguments: object) -> Any:
    return CliRunner().invoke(cxr.app, ["backfill", *map(str, arguments)])


def test_a_folder_is_judged_as_the_inbox_is(scans: Path, tmp_path: Path) -> None:
    total = 4 + len(pictures.BAD)
    answer = test_cli.cxr("backfill", scans, tmp_path / "verdicts")
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert answer.stdout.decode().startswith(f"{total} images: {total} judged")
    assert "P(pneumonia)" in answer.stdout.decode()
    assert [path.name for path in scans.iterdir() if path.name.startswith(".")] == [".DS_Store"]
    root = tmp_path / "scans-too"
    root.mkdir()
    scans.rename(root / "inbox")
    assert test_cli.cxr("reconcile", "--root", root).returncode == 0
    ours, theirs = verdicts(tmp_path / "verdicts"), verdicts(root / "outbox")
    assert len(ours) == total
    assert {name: said(verdict) for name, verdict in ours.items()} == {
        name: said(verdict).replace('"bucket":"scans-too"', '"bucket":"scans"')
        for name, verdict in theirs.items()
    }
    answer = command(root / "inbox", root / "outbox")
    assert f"{total} images: 0 judged; {total} had their verdict; 0 failed" in answer.stdout
    assert sorted(path.name for path in root.iterdir()) == [".cxr", "inbox", "outbox"]


def test_from_a_bucket_into_a_folder_and_into_itself(
    s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "client", lambda service: s3_store._client)
    names = ["a b/ä.jpeg", "a b/bad", "c.jpeg"]
    for number, name in enumerate(names):
        s3_store.put(f"old/{name}", b"bad" if name.endswith("bad") else varied(number), None)
    s3_store.put("old/folder/", b"", None)
    s3_store.put("older/d.jpeg", b"", None)
    for outbox in (f"s3://{s3_store.bucket}/new", str(tmp_path / "out")):
        answer = command(f"s3://{s3_store.bucket}/old", outbox)
        assert answer.exit_code == 0, answer.output
        assert "3 images: 3 judged" in answer.stdout
        assert "3 had their verdict" in command(f"s3://{s3_store.bucket}/old/", outbox).stdout
    keys = {info.key for info in s3_store.list("new/") if info.key.endswith(".json")}
    assert keys == {f"new/{name}.json" for name in names}
    assert verdicts(tmp_path / "out").keys() == {f"{name}.json" for name in names}
    found = s3_store.get("new/c.jpeg.json", 1_000_000)
    assert found is not None
    verdict = Verdict.from_json(found[1])
    assert (verdict.source.bucket, verdict.source.key) == (s3_store.bucket, "inbox/c.jpeg")
    assert f"new/{(verdict.preview_key or '').removeprefix('outbox/')}" in {
        info.key for info in s3_store.list("new/.previews/")
    }


def test_a_kill_at_any_moment_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    source, outbox = tmp_path / "scans", tmp_path / "out"
    for number in range(COUNT):
        path = source / f"{number % 5}/{number}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(varied(number))
    line = [sys.executable, "-m", "cxr", "backfill", str(source), str(outbox)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    some = random.randrange(2, COUNT // 2)
    wait_for(lambda: len(list(outbox.glob("*/*.json"))) >= some, 60)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in outbox.glob("*/*.json")}
    assert some <= len(before) < COUNT
    again = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    rest = COUNT - len(before)
    assert f"{COUNT} images: {rest} judged" in again.stdout
    assert f"{len(before)} had their verdict" in again.stdout
    after = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in outbox.glob("*/*.json")}
    assert before.items() <= after.items()
    found = verdicts(outbox)
    assert len(found) == COUNT
    for name, verdict in found.items():
        data = (source / name.removesuffix(".json")).read_bytes()
        assert (verdict.status, verdict.source.etag) == ("classified", hashlib.md5(data).hexdigest())


def test_an_image_without_a_verdict_is_named(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "out/2019/ward 3/1.jpeg.json").mkdir(parents=True)
    store = open_archive(str(scans), str(tmp_path / "out"))
    engine = FakeEngine()
    judge = Judge(store, engine, Release(), LIMIT)
    shown = Console(file=StringIO(), width=200)
    tally = progress.follow(Backfill(judge, 2, (0,)).run(store.jobs()), lambda: 7, shown)
    assert (tally.bad, tally.results["failed"]) == (1, 1)
    assert tally.total == 4 + len(pictures.BAD)
    assert isinstance(shown.file, StringIO)
    assert shown.file.getvalue().startswith("2019/ward 3/1.jpeg: failed: a folder or a link of the same name")


def test_the_summary_has_what_came_of_all() -> None:
    tally, shown = Tally(), StringIO()
    for done in (
        Done("inbox/a", "classified", label="pneumonia", probability=1.0),
        Done("inbox/b", "current", label="normal", probability=0.05),
        Done("inbox/c", "rejected", reason="not_a_chest_xray"),
        Done("inbox/d", "gone"),
    ):
        tally.add(done)
    progress.summary(tally, 2.0, Console(file=shown, width=100))
    text = shown.getvalue()
    assert text.startswith("4 images: 2 judged, 1.0/s; 1 had their verdict; 0 failed; 1 not there")
    assert "rejected: not_a_chest_xray" in text
    assert [tally.histogram[0], tally.histogram[-1], sum(tally.histogram)] == [1, 1, 2]


def test_progress_is_a_line_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    shown = StringIO()
    progress.follow(iter([Done("inbox/a", "classified")] * 3), lambda: 3, Console(file=shown, width=100))
    assert len(shown.getvalue().splitlines()) == 3
    assert shown.getvalue().splitlines()[-1].startswith("3 of 3")


@pytest.mark.parametrize(
    ("source", "outbox", "said"),
    [
        ("{}/none", "{}/out", "there is no such folder"),
        ("{}/scans", "{}/scans/out", "name an OUTBOX beside SOURCE"),
        ("{}/scans", "{}", "name an OUTBOX beside SOURCE"),
        ("{}/scans", "{}/scans/2019/ward 3/0.jpeg", "name an OUTBOX beside SOURCE"),
        ("s3://bucket/a", "s3://bucket/a/b", "name an OUTBOX beside SOURCE"),
        ("s3://", "{}/out", "as s3://bucket/folder"),
        ("{}/scans", "{}/file/out", "name another OUTBOX"),
    ],
)
def test_addresses_that_cannot_be(scans: Path, tmp_path: Path, source: str, outbox: str, said: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=said):
        open_archive(source.format(tmp_path), outbox.format(tmp_path))


def test_a_source_is_only_read_and_its_links_are_told(scans: Path, tmp_path: Path) -> None:
    (scans / "link.jpeg").symlink_to(scans / "2019/ward 3/0.jpeg")
    store = open_archive(str(scans), str(tmp_path / "out"))
    assert results(run(store))["inbox/link.jpeg"] == "gone"
    assert not (scans / ".cxr").exists()
    with pytest.raises(StoreError):
        store.put("inbox/new", b"x", None)


def test_a_folder_that_may_not_be_read_is_not_passed_over(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "2019":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    store = FolderStore(scans, ("",), writable=False)
    with pytest.raises(StoreError, match="2019 cannot be read"):
        list(store.jobs(""))
    assert len(list(store.list(""))) == len(pictures.BAD) + 1


def test_options_of_ray_ask_for_ray(scans: Path, tmp_path: Path) -> None:
    answer = command(scans, tmp_path / "out", "--workers", "2")
    assert isinstance(answer.exception, UsageError)
