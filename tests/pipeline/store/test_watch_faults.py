"""The watcher with slow writers, failing hints and dying watches, over a real folder."""

import errno
import itertools
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import StoreError, UsageError
from pipeline.running.background import Background
from pipeline.store.ledger import packed
from pipeline.store.watch import InboxWatcher
from tests.pipeline.store.test_watch import Hints, hints, inbox, started, watcher
from tests.support import pictures
from tests.support.machines import wait_for

__all__ = ["hints", "inbox", "watcher"]  # fixtures


def follow(inbox: Path, hints: Hints, **options: Any) -> InboxWatcher:
    return InboxWatcher(inbox.parent, lambda key, removed: hints.append((key, removed)), **options)


@pytest.mark.usefixtures("watcher")
def test_a_cut_or_empty_file_is_waited_for(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some writers create an empty file first, close twice, write with pauses, or reserve the space."""
    monkeypatch.setattr("pipeline.store.hints._CUT_SECONDS", 2.5)
    monkeypatch.setattr("pipeline.store.hints._EMPTY_SECONDS", 2.5)
    data = pictures.SAMPLE.read_bytes()
    names = ("empty.jpeg", "twice.jpeg", "reserved.jpeg")
    with (inbox / "slow.jpeg").open("wb", buffering=0) as slow:
        slow.write(data[:30_000])
        for name, first in zip(names, (b"", data[:30_000], bytes(len(data))), strict=True):
            (inbox / name).write_bytes(first)
        (inbox / "cut.jpeg").write_bytes(data[:30_000])
        time.sleep(1)
        assert not hints
        for name in names:
            (inbox / name).write_bytes(data)
        wait_for(lambda: {key for key, _ in hints} == {f"inbox/{name}" for name in names}, 2)
        wait_for(lambda: ("inbox/cut.jpeg", False) in hints)  # it stays cut: its refusal is due
        assert ("inbox/slow.jpeg", False) not in hints  # it is open still
        slow.write(data[30_000:])
    wait_for(lambda: ("inbox/slow.jpeg", False) in hints)


def test_a_cut_file_from_long_ago_is_taken_at_the_start(inbox: Path, hints: Hints) -> None:
    for name, data in (("empty", b""), ("cut", pictures.SAMPLE.read_bytes()[:30_000])):
        (inbox / name).write_bytes(data)
    follow(inbox, hints).scan(old=time.time() + 1)
    assert {key for key, _ in hints} == {"inbox/empty", "inbox/cut"}


@pytest.mark.parametrize("poll", [False, True])
def test_a_hint_that_fails_is_given_again(
    inbox: Path, hints: Hints, poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the index is locked or the disk is full, a problem is reported, without the name."""
    monkeypatch.setattr("pipeline.store.hints._RETRY_SECONDS", 0.2)
    broken = True

    def hint(key: str, removed: bool) -> None:
        if broken:
            raise StoreError("the disk is full")
        hints.append((key, removed))

    (inbox / "old").write_bytes(b"1")
    os.utime(inbox / "old", (1, 1))
    watcher = InboxWatcher(inbox.parent, hint, poll)
    watcher._rescan_seconds = watcher._hints.settle_seconds = 0.2
    watcher.start(known=lambda: ["inbox/gone"])
    (inbox / "new").write_bytes(b"1")
    wait_for(lambda: bool(watcher.problems()))
    time.sleep(1)
    assert watcher.problems() == ["New X-rays cannot be queued; trying again: the disk is full."]
    broken = False
    wait_for(lambda: set(hints) == {("inbox/gone", True), ("inbox/old", False), ("inbox/new", False)})
    (inbox / "new").unlink()
    wait_for(lambda: ("inbox/new", True) in hints)
    assert watcher.problems() == []
    watcher.stop()


def test_a_share_whose_inodes_and_change_times_wander_is_watched_by_size_and_time(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()

    def wandering(found: os.stat_result) -> Any:
        names = [name for name in dir(found) if name.startswith("st_")]
        other = {name: getattr(found, name) for name in names}
        return SimpleNamespace(**other | {"st_ino": next(numbers), "st_ctime_ns": next(numbers)})

    monkeypatch.setattr("pipeline.store.hints.packed", lambda found: packed(wandering(found)))
    watcher = follow(inbox, hints, poll=True)
    watcher._rescan_seconds = watcher._hints.settle_seconds = 0.2
    watcher.start()
    (inbox / "a.jpeg").write_bytes(b"1")
    wait_for(lambda: bool(hints))
    time.sleep(1)
    assert hints == [("inbox/a.jpeg", False)]
    (inbox / "a.jpeg").write_bytes(b"22")
    wait_for(lambda: len(hints) == 2)
    watcher.stop()


@pytest.mark.usefixtures("watcher")
def test_what_becomes_readable_is_said_by_itself(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works even if the share shows no change of the file."""
    monkeypatch.setattr("pipeline.store.hints._UNREADABLE_SECONDS", 0.5)
    refused = True
    monkeypatch.setattr("os.access", lambda path, mode: not refused)
    (inbox / "secret.jpeg").write_bytes(b"1")
    wait_for(lambda: hints[:1] == [("inbox/secret.jpeg", False)])
    time.sleep(1.2)
    assert len(hints) == 1
    refused = False
    wait_for(lambda: len(hints) == 2, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="of inotify")
@pytest.mark.parametrize("part", ["observer", "emitter", "reader"])
def test_a_watch_of_the_system_that_died_is_begun_again(inbox: Path, hints: Hints, part: str) -> None:
    watcher = follow(inbox, hints, rescan_seconds=0.3)
    watcher.start()
    observer: Any = watcher._observer
    thread = {"observer": observer, "emitter": next(iter(observer.emitters)), "reader": observer._inotify_fd}
    thread[part].stop()
    thread[part].join(5)
    wait_for(lambda: watcher._observer not in (None, observer))
    watcher._due = time.monotonic() + 60
    (inbox / "a.jpeg").write_bytes(b"1")
    wait_for(lambda: hints == [("inbox/a.jpeg", False)], 2)
    watcher.stop()


def test_an_event_that_fails_ends_no_thread(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = follow(inbox, hints)
    watcher.start()
    key = InboxWatcher._key

    def broken(self: InboxWatcher, path: bytes | str) -> str | None:
        if not hints:
            monkeypatch.setattr(InboxWatcher, "_key", key)
            raise RuntimeError("a defect")
        return key(self, path)

    monkeypatch.setattr(InboxWatcher, "_key", broken)
    (inbox / "a.jpeg").write_bytes(b"1")
    wait_for(lambda: hints == [("inbox/a.jpeg", False)])
    assert watcher._is_watching()
    watcher.stop()


def test_where_the_system_stops_watching_the_inbox_is_looked_through(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of inotify, the problem is reported and watching is tried again."""
    monkeypatch.setattr("pipeline.store.watch._SCAN_SECONDS", 0.3)
    watcher = follow(inbox, hints, rescan_seconds=1)
    watcher.start()
    observer = watcher._observer
    assert observer is not None

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    with monkeypatch.context() as limited:
        limited.setattr("pipeline.store.watch.Observer", refuse)
        observer.stop()
        wait_for(lambda: bool(watcher.problems()))
        assert "inotify watch limit reached" in watcher.problems()[0]
        (inbox / "a.jpeg").write_bytes(b"1")
        wait_for(lambda: hints == [("inbox/a.jpeg", False)])
        with pytest.raises(UsageError, match="use --poll"):
            follow(inbox, []).start()
    wait_for(lambda: watcher.problems() == [])
    assert watcher._is_watching()
    watcher.stop()


def test_what_only_a_scan_finds_makes_scans_more_frequent(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may refuse to watch single folders without an error."""
    monkeypatch.setattr("pipeline.store.watch._SCAN_SECONDS", 0.3)
    watcher = started(follow(inbox, hints, rescan_seconds=1.5))
    assert watcher._observer is not None
    watcher._observer.unschedule_all()
    monkeypatch.setattr(InboxWatcher, "_is_watching", lambda self: True)
    (inbox / "a.jpeg").write_bytes(b"1")
    wait_for(lambda: ("inbox/a.jpeg", False) in hints)
    wait_for(lambda: any("cannot be watched" in problem for problem in watcher.problems()))
    (inbox / "b.jpeg").write_bytes(b"1")
    wait_for(lambda: ("inbox/b.jpeg", False) in hints, 1.4)
    watcher.stop()


def test_a_scan_that_fails_is_said_and_goes_on(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = follow(inbox, hints, poll=True)
    watcher._rescan_seconds = watcher._hints.settle_seconds = 0.2
    watcher.start()
    with monkeypatch.context() as broken:
        broken.setattr(InboxWatcher, "_compare", lambda *_: 1 / 0)
        (inbox / "a.jpeg").write_bytes(b"1")
        wait_for(lambda: any("cannot be scanned" in problem for problem in watcher.problems()))
    wait_for(lambda: hints == [("inbox/a.jpeg", False)])
    assert watcher.problems() == []
    watcher.stop()


def test_an_inbox_that_went_is_said(inbox: Path, hints: Hints) -> None:
    watcher = follow(inbox, hints, rescan_seconds=0.2)
    watcher.start()
    inbox.rmdir()
    wait_for(lambda: watcher.problems() == ["The inbox is missing: create the folder again."])
    inbox.mkdir()
    wait_for(lambda: watcher.problems() == [])
    watcher.stop()


def test_a_watcher_runs_in_the_background_that_it_is_given(inbox: Path, hints: Hints) -> None:
    background = Background()
    watcher = follow(inbox, hints, background=background)
    watcher.start()
    (inbox / "a.jpeg").write_bytes(b"1")
    wait_for(lambda: hints == [("inbox/a.jpeg", False)])
    background.stop()
    watcher.stop()
