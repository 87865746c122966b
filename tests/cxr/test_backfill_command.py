"""`cxr backfill` as a command, over folders and buckets and after a kill; its verdicts equal the inbox's."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cxr import progress
from cxr.archive import open_archive
from cxr.commands import app
from handlers import wiring
from pipeline.backfill import Backfill
from pipeline.errors import StoreError, UsageError
from pipeline.judge import Judge
from pipeline.store.folder import FolderStore
from pipeline.store.s3 import S3Store
from pipeline.verdict import Release, Verdict
from tests.pipeline.test_backfill import results, run
from tests.support import pictures
from tests.support.commands import cxr, process
from tests.support.fakes import LIMIT, FakeEngine
from tests.support.machines import wait_for
from tests.system.test_up import varied

TIMES = {"started_at", "finished_at", "timing_ms"}
COUNT = 60


def verdicts(outbox: Path) -> dict[str, Verdict]:
    paths = (path for path in outbox.rglob("*.json") if ".previews" not in path.parts)
    return {path.relative_to(outbox).as_posix(): Verdict.from_json(path.read_bytes()) for path in paths}


def said(verdict: Verdict) -> str:
    return verdict.model_dump_json(exclude=TIMES)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Provide a folder of samples and of files that are not images."""
    folder = tmp_path / "scans"
    (folder / "2019/ward 3").mkdir(parents=True)
    for number in range(4):
        (folder / f"2019/ward 3/{number}.jpeg").write_bytes(varied(number))
    for name, (_, make) in pictures.BAD.items():
        (folder / name).write_bytes(make())
    (folder / ".DS_Store").write_bytes(b"hidden")
    return folder


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["backfill", *map(str, arguments)])


def test_a_folder_is_judged_as_the_inbox_is(scans: Path, tmp_path: Path) -> None:
    total = 4 + len(pictures.BAD)
    answer = process("backfill", scans, tmp_path / "verdicts")
    assert (answer.returncode, answer.stderr) == (1, b"")  # some could not be judged, like `cxr classify`
    assert answer.stdout.decode().startswith(f"{total} images: {total} judged")
    assert "uncertain" in answer.stdout.decode()
    assert [path.name for path in scans.iterdir() if path.name.startswith(".")] == [".DS_Store"]
    root = tmp_path / "scans-too"
    root.mkdir()
    scans.rename(root / "inbox")
    assert cxr("reconcile", "--root", root).returncode == 0
    ours, theirs = verdicts(tmp_path / "verdicts"), verdicts(root / "outbox")
    assert len(ours) == total
    assert {name: said(verdict) for name, verdict in ours.items()} == {
        name: said(verdict).replace('"bucket":"scans-too"', '"bucket":"scans"')
        for name, verdict in theirs.items()
    }
    answer = command(root / "inbox", root / "outbox")
    assert f"{total} images: 0 judged; {total} already had a verdict; 0 failed" in answer.stdout
    assert sorted(path.name for path in root.iterdir()) == [".cxr", "inbox", "outbox"]


def test_from_a_bucket_into_a_folder_and_into_itself(
    s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "open_bucket", lambda name: S3Store(name, s3_store._client))
    names = ["a b/ä.jpeg", "a b/bad", "c.jpeg"]
    for number, name in enumerate(names):
        s3_store.put(f"old/{name}", b"bad" if name.endswith("bad") else varied(number), None)
    s3_store.put("old/folder/", b"", None)
    s3_store.put("older/d.jpeg", b"", None)
    for outbox in (f"s3://{s3_store.bucket}/new", str(tmp_path / "out")):
        answer = command(f"s3://{s3_store.bucket}/old", outbox)
        assert answer.exit_code == 1, answer.output  # one is no image
        assert "3 images: 3 judged" in answer.stdout
        assert "3 already had a verdict" in command(f"s3://{s3_store.bucket}/old/", outbox).stdout
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


def test_a_line_of_json_for_each_image_and_nothing_else(scans: Path, tmp_path: Path) -> None:
    for result in ("judged", "current"):
        answer = cxr("backfill", scans, tmp_path / "verdicts", "--json")
        assert answer.returncode == 1
        lines = {line["key"]: line for line in map(json.loads, answer.stdout.splitlines())}
        assert len(lines) == 4 + len(pictures.BAD)
        assert lines["2019/ward 3/0.jpeg"].keys() == {"key", "result", "label", "doubt", "probability"}
        assert {"key", "result", "reason"} <= lines[next(iter(pictures.BAD))].keys()
        assert {line["result"] for line in lines.values()} == (
            {"current"} if result == "current" else {"classified", "rejected"}
        )
        assert b"images: " in answer.stderr


def test_a_source_that_is_not_there_makes_no_outbox(
    s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "open_bucket", lambda name: S3Store(name, s3_store._client))
    for source in (str(tmp_path / "none"), f"s3://{s3_store.bucket}/none"):
        with pytest.raises(UsageError, match=r"there (is|are) no"):
            open_archive(source, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_kill_at_any_moment_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_THREADS", "2")
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
    assert f"{len(before)} already had a verdict" in again.stdout
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
    assert (tally.bad, tally.results["given_up"]) == (1, 1)
    assert tally.total == 4 + len(pictures.BAD)
    assert isinstance(shown.file, StringIO)
    assert shown.file.getvalue().startswith(
        "2019/ward 3/1.jpeg: given_up: a folder or a link of the same name"
    )


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
    really = os.open

    def refuse(path: str, *arguments: Any, **more: Any) -> int:
        if path == "2019":
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    store = FolderStore(scans, ("",), writable=False)
    with pytest.raises(StoreError, match="2019 cannot be read"):
        list(store.jobs(""))
    assert len(list(store.list(""))) == len(pictures.BAD) + 1


def test_options_of_ray_ask_for_ray(scans: Path, tmp_path: Path) -> None:
    answer = command(scans, tmp_path / "out", "--workers", "2")
    assert isinstance(answer.exception, UsageError)
