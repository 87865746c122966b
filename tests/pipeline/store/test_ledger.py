"""Starts of the watcher, its queue and the ledger together, over a real folder: what is looked at again."""

import os
import shutil
import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cxr import local
from handlers import wiring
from pipeline.errors import StoreError
from pipeline.forget import erase_xray
from pipeline.intake import Ports
from pipeline.judge import Judge
from pipeline.names import verdict_key
from pipeline.records import Job, Outcome, SourceState
from pipeline.store import ledger as module
from pipeline.store.folder import FolderStore
from pipeline.store.ledger import Ledger, packed
from pipeline.store.watch import InboxWatcher
from pipeline.verdict import Release
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import LIMIT, FakeEngine
from tests.support.machines import wait_for


class Program:
    """Run the parts of `cxr up` that look at the inbox, and note what they look at."""

    def __init__(self, root: Path, poll: bool = False, release: int = 1, rescan_seconds: float = 30) -> None:
        self.root, self.looked = root, list[str]()
        store = FolderStore(root)
        self.judge = Judge(store, FakeEngine(), Release(number=release, version="test"), LIMIT)
        self.index = SqliteIndex(root / ".cxr/index.sqlite")
        ports = Ports(store, self.index, self, self.judge.release, "secret")
        wiring.provide(ports)
        self.ledger = Ledger(root, release)
        self.queue = local.LocalQueue(ports, ended=self.ledger.end)
        is_settled = self.queue._is_settled

        def noted(key: str) -> bool:
            return is_settled(key) and not self.looked.append(key)  # type: ignore[func-returns-value]

        self.queue._is_settled = noted  # type: ignore[method-assign]
        self.watcher = InboxWatcher(
            root, self.queue.hint, poll, rescan_seconds, ledger=self.ledger, offer=self.queue.offer
        )
        self.watcher.start(self.index.present, self.index.unsettled)

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Judge as a host does."""
        for job in jobs:
            self.looked.append(job.key)
            yield self.judge.judge(job)

    def abandon(self) -> None:
        """End nothing: no job takes long."""

    def rest(self) -> list[str]:
        """Return the keys that were looked at, some perhaps twice, when nothing is left to do."""
        wait_for(lambda: self.watcher._known is None and not self.watcher._hints.has_left)
        wait_for(lambda: self.queue.status().depth == 0)
        return sorted(set(self.looked))

    def kill(self) -> None:
        """End it as a crash does: what is not on disk is lost."""
        self.queue.stop()
        self.ledger._pending.clear()
        self.watcher.stop()
        self.index.close()

    def stop(self) -> list[str]:
        """End it well; return the keys that were looked at."""
        found = self.rest()
        self.queue.stop()
        self.watcher.stop()
        self.index.close()
        return found


@pytest.fixture(autouse=True)
def _at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files count as old at once."""
    monkeypatch.setattr("pipeline.store.watch._OLD_SECONDS", -1)
    monkeypatch.setattr(module, "CERTAIN_SECONDS", 0.0)


KEYS = [f"inbox/{name}" for name in ("a", "b", "ward/c", "ward/deep/d")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a root that a program has seen to."""
    for key in KEYS:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(b"P1")
    assert Program(tmp_path).stop() == KEYS
    return tmp_path


def rows(root: Path) -> dict[str, bool]:
    """Return the keys of the ledger, and whether they are done."""
    with closing(sqlite3.connect(root / ".cxr/seen.sqlite")) as database:
        found = database.execute("SELECT key, verdict IS NOT NULL FROM seen")
        return {os.fsdecode(key): bool(done) for key, done in found}


def test_a_start_looks_at_nothing_that_did_not_change(root: Path) -> None:
    assert rows(root) == dict.fromkeys(KEYS, True)
    assert Program(root).stop() == []


def replaced(path: Path) -> None:
    before = path.stat()
    (path.parent / "x.tmp").write_bytes(b"N1")
    (path.parent / "x.tmp").rename(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def written(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"N1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def linked(path: Path) -> None:
    """Put another name of an older file into its place."""
    (path.parent / "other").hardlink_to(path)
    (path.parent / "other").rename(path.parent / ".other")
    replaced(path)


CHANGES: list[Callable[[Path], object]] = [replaced, written, linked, lambda path: path.write_bytes(b"P22")]


@pytest.mark.parametrize("poll", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_it_is_off_is_found(root: Path, change: Callable[[Path], object], poll: bool) -> None:
    """It may keep size and time."""
    assert Program(root, poll).stop() == []
    change(root / "inbox/ward/c")
    (root / "inbox/new").write_bytes(b"P1")
    assert Program(root, poll).stop() == ["inbox/new", "inbox/ward/c"]
    assert Program(root, poll).stop() == []


def test_what_went_while_it_is_off_is_marked(root: Path) -> None:
    (root / "inbox/a").unlink()
    shutil.rmtree(root / "inbox/ward")
    (root / "inbox/new").write_bytes(b"P1")
    program = Program(root)
    assert program.rest() == ["inbox/new"]
    wait_for(lambda: set(program.index.present()) == {"inbox/b", "inbox/new"})
    program.stop()
    assert rows(root) == {"inbox/b": True, "inbox/new": True}


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"{}"), replaced])
def test_a_verdict_that_is_not_as_it_was_is_made_again(root: Path, change: Callable[[Path], object]) -> None:
    change(root / verdict_key("inbox/b"))
    assert Program(root).stop() == ["inbox/b"]
    assert b"pneumonia" in (root / verdict_key("inbox/b")).read_bytes()
    assert Program(root).stop() == []


def test_a_newer_release_looks_at_everything(root: Path) -> None:
    assert Program(root, release=2).stop() == KEYS
    assert Program(root, release=2).stop() == []


def destroyed(path: Path) -> None:
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE seen (key TEXT)")


@pytest.mark.parametrize("change", [Path.unlink, destroyed, foreign])
def test_without_a_sound_ledger_everything_is_looked_at(root: Path, change: Callable[[Path], object]) -> None:
    (root / "inbox/a").unlink()
    change(root / ".cxr/seen.sqlite")
    program = Program(root)
    assert program.rest() == KEYS[1:]
    wait_for(lambda: set(program.index.present()) == set(KEYS[1:]))
    program.stop()
    assert Program(root).stop() == []


def test_a_ledger_that_is_lost_meanwhile(root: Path) -> None:
    program = Program(root)
    program.rest()
    for path in (root / ".cxr").glob("seen.sqlite*"):
        path.unlink()
    (root / "inbox/new").write_bytes(b"P1")
    wait_for(lambda: (root / "outbox/new.json").exists())
    program.stop()
    assert "inbox/new" in rows(root)


def test_a_ledger_that_fails_keeps_no_x_ray_waiting(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Ledger, "_database", fail)
    program = Program(root)
    (root / "inbox/new").write_bytes(b"P1")
    wait_for(lambda: (root / "outbox/new.json").exists())
    (root / "inbox/new").write_bytes(b"P22")
    wait_for(lambda: b'"size":2' not in (root / "outbox/new.json").read_bytes())
    monkeypatch.undo()
    program.kill()


def test_a_crash_leaves_open_what_was_not_done(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_LANES", 0)
    (root / "inbox/new").write_bytes(b"P1")
    (root / "inbox/a").write_bytes(b"P22")
    first = Program(root)
    wait_for(lambda: first.queue.status().depth == 2)
    wait_for(lambda: rows(root).get("inbox/new") is False)
    first.kill()
    monkeypatch.setattr(local, "_LANES", 8)
    second = Program(root)
    assert second.rest() == ["inbox/a", "inbox/new"]
    second.kill()  # with less on disk than was done
    third = Program(root)
    assert set(third.rest()) <= {"inbox/a", "inbox/new"}
    assert not list(third.index.unsettled())
    third.stop()
    assert Program(root).stop() == []


def test_what_the_worklist_shows_as_waiting_is_settled(root: Path) -> None:
    """Another process may have died at it."""
    with closing(SqliteIndex(root / ".cxr/index.sqlite")) as index:
        index.wait(["inbox/b"], datetime.now(UTC), at_work=True)
    program = Program(root)
    assert program.rest() == ["inbox/b"]
    wait_for(lambda: not list(program.index.unsettled()))
    program.stop()


@pytest.mark.parametrize("source", ["present", "deleted"])
def test_what_waited_and_was_deleted_while_the_program_was_off_waits_no_more(
    root: Path, source: SourceState
) -> None:
    (root / "inbox/b").unlink()
    if source == "deleted":  # which an earlier start may have found
        Program(root).stop()
    with closing(SqliteIndex(root / ".cxr/index.sqlite")) as index:
        index.wait(["inbox/b", "inbox/never judged"], datetime.now(UTC), at_work=True)
        index.mark("inbox/b", source)
    program = Program(root)
    program.rest()
    wait_for(lambda: not list(program.index.unsettled()))
    row = program.index.get("inbox/b")
    assert row is not None
    assert (row.status, row.source, row.at_work) == ("classified", "deleted", False)
    assert program.index.get("inbox/never judged") is None
    program.stop()


def test_a_failed_verdict_is_tried_again_at_each_start_only(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_PAUSES", (0.01, 0.01))
    (root / "inbox/bad").write_bytes(b"boom")
    program = Program(root, rescan_seconds=0.3)
    wait_for(lambda: rows(root).get("inbox/bad") is True)
    time.sleep(0.8)
    program.stop()
    assert program.looked == ["inbox/bad"] * 3
    again = Program(root)
    again.stop()
    assert again.looked[:3] == ["inbox/bad"] * 3


def test_what_was_read_soon_after_its_change_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes may have changed without a trace since."""
    monkeypatch.setattr(module, "CERTAIN_SECONDS", 1.0)
    monkeypatch.setattr("pipeline.store.watch._OLD_SECONDS", 60)
    program = Program(root, rescan_seconds=0.3)
    (root / "inbox/new").write_bytes(b"P1")
    wait_for(lambda: program.looked == ["inbox/new"])
    wait_for(lambda: rows(root).get("inbox/new") is False)
    wait_for(lambda: rows(root).get("inbox/new") is True)
    assert set(program.stop()) == {"inbox/new"}
    assert len(program.looked) > 1


def test_a_newer_hint_keeps_the_older_delivery_from_being_the_last(tmp_path: Path) -> None:
    ledger, path = Ledger(tmp_path), tmp_path / "inbox/a"
    for key in ("inbox/a", verdict_key("inbox/a")):
        (tmp_path / key).parent.mkdir()
        (tmp_path / key).write_bytes(b"1")
    ledger.say("inbox/a", packed(path.stat()), 1)
    ledger.end("inbox/a", 5, is_current=True)
    known = ledger.get("inbox/a")
    assert known is not None
    assert known.verdict is not None
    for flush in (False, True):
        ledger.end("inbox/a", 5, is_current=True)
        ledger.say("inbox/a", b"newer", 5)
        if flush:
            ledger.flush()
        known = ledger.get("inbox/a")
        assert known is not None
        assert (known.source, known.verdict) == (b"newer", None)
    ledger.gone("inbox/a")
    ledger.end("inbox/a", 5, is_current=True)
    ledger.close()
    assert rows(tmp_path) == {}


def test_the_queue_says_that_a_delivery_ended_only_if_none_follows(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, ended = Program(root), list[str]()
    program.rest()
    monkeypatch.setattr(program.queue, "_ended", lambda key, *_: ended.append(key))
    judge = program.judge.judge

    def replaced_meanwhile(job: Job) -> Outcome:
        if len(program.looked) == 1:
            program.queue.hint("inbox/a", removed=False)
        return judge(job)

    monkeypatch.setattr(program.judge, "judge", replaced_meanwhile)
    (root / verdict_key("inbox/a")).unlink()
    program.queue.hint("inbox/a", removed=False)
    program.stop()
    assert program.looked == ["inbox/a"] * 2
    assert ended == ["inbox/a"]


@pytest.mark.parametrize("is_running", [False, True])
def test_no_name_stays_after_forgetting(root: Path, is_running: bool) -> None:
    name = "Zaphod Beeblebrox"
    (root / "inbox" / name).write_bytes(b"P1")
    program = Program(root)
    program.rest()
    if not is_running:
        program.stop()
    ledger, index = Ledger(root, release=1), SqliteIndex(root / ".cxr/index.sqlite")
    assert erase_xray(f"inbox/{name}", FolderStore(root), index, 2.0, ledger=ledger)
    if is_running:
        program.stop()
    ledger.close()
    index.close()
    found = list((root / ".cxr").glob("seen.sqlite*"))
    assert found
    assert not any(name.encode() in path.read_bytes() for path in found)
    assert Program(root).stop() == []


def test_a_full_queue_leaves_files_to_later_scans_and_takes_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_ROOM", 3)
    monkeypatch.setattr(local, "_LANES", 1)
    keys = [f"inbox/{number:02}" for number in range(20)]
    (tmp_path / "inbox").mkdir()
    for key in keys:
        (tmp_path / key).write_bytes(b"P1")
    depths, run = list[int](), Program.run

    def slow(self: Program, jobs: Iterable[Job]) -> Iterator[Outcome]:
        depths.append(self.queue.status().depth or 0)
        time.sleep(0.05)
        yield from run(self, jobs)

    monkeypatch.setattr(Program, "run", slow)
    program = Program(tmp_path, rescan_seconds=0.3)
    wait_for(lambda: len(program.looked) > 1)
    (tmp_path / "inbox/news").write_bytes(b"P1")
    wait_for(lambda: "inbox/news" in program.looked, 2)
    assert len(program.looked) < 12
    wait_for(lambda: set(program.looked) == {*keys, "inbox/news"})
    program.stop()
    assert max(depths) <= 5


def test_new_and_moved_folders_are_scanned_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(root)
    program.rest()
    program.watcher._due = time.monotonic() + 60
    scan, scanned = program.watcher.scan, list[object]()
    monkeypatch.setattr(program.watcher, "scan", lambda **given: (scanned.append(given), scan(**given)))
    (root / "inbox/ward").rename(root / "inbox/ward.tmp 2")
    wait_for(lambda: set(program.index.present()) >= {"inbox/ward.tmp 2/c", "inbox/ward.tmp 2/deep/d"})
    wait_for(lambda: "inbox/ward/c" not in set(program.index.present()))
    shutil.rmtree(root / "inbox/ward.tmp 2")
    wait_for(lambda: set(program.index.present()) == {"inbox/a", "inbox/b"})
    assert all(given != {} for given in scanned)
    program.stop()
    assert rows(root) == {"inbox/a": True, "inbox/b": True}


def test_a_share_whose_numbers_wander_is_looked_at_as_a_whole_when_there_is_room(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_ROOM", 1)
    for key in KEYS:  # as a copy of the root has it
        before = (root / key).stat()
        shutil.copy2(root / key, root / "copy")
        (root / "copy").rename(root / key)
        assert (root / key).stat().st_mtime_ns == before.st_mtime_ns
    program = Program(root, poll=True)
    wait_for(lambda: set(program.looked) == set(KEYS))
    program.stop()
    assert Program(root, poll=True).stop() == []


def test_names_that_are_not_unicode(root: Path) -> None:
    (root / os.fsdecode(b"inbox/\xff")).write_bytes(b"P1")
    assert Program(root).stop() == ["inbox/\udcff"]
    assert Program(root).stop() == []


def test_a_scan_keeps_no_list_of_files(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / f"inbox/{folder}").mkdir(parents=True)
        for number in range(250):
            (tmp_path / f"inbox/{folder}/{'n' * 40}{number}").touch()
    ledger = Ledger(tmp_path)
    for path in (tmp_path / "inbox").rglob("n*"):
        ledger.say(path.relative_to(tmp_path).as_posix(), packed(path.stat()), 0)
    watcher = InboxWatcher(tmp_path, lambda key, removed: None, ledger=ledger)
    watcher.scan()
    tracemalloc.start()
    watcher.scan()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    watcher.stop()
    assert peak < 1_000_000  # 5,000 names alone have 0.5 MB, a batch of 500 with its states 0.4 MB
