"""The watcher, over a real folder."""

import errno
import itertools
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.background import Background
from pipeline.errors import StoreError, UsageError
from pipeline.hints import Hints as Hints_
from pipeline.watch import InboxWatcher
from tests import pictures

Hints = list[tuple[str, bool]]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


@pytest.fixture
def hints() -> Hints:
    return []


@pytest.fixture(params=["watching", "polling"])
def watcher(request: pytest.FixtureRequest, inbox: Path, hints: Hints) -> Iterator[InboxWatcher]:
    poll = request.param == "polling"
    watcher = InboxWatcher(inbox.parent, lambda key, removed: hints.append((key, removed)), poll)
    if poll:
        watcher._rescan_seconds = watcher._hints.settle_seconds = 0.2  # the test's patience, not the logic
    watcher.start()
    yield watcher
    watcher.stop()


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.usefixtures("watcher")
def test_files_that_appear_change_and_go(inbox: Path, hints: Hints) -> None:
    (inbox / "a.jpeg").write_bytes(b"1")
    wait_for(lambda: hints == [("inbox/a.jpeg", False)])
    (inbox / "a.jpeg").write_bytes(b"22")
    wait_for(lambda: hints[1:] == [("inbox/a.jpeg", False)])
    (inbox / "a.jpeg").unlink()
    wait_for(lambda: hints[2:] == [("inbox/a.jpeg", True)])


@pytest.mark.usefixtures("watcher")
def test_renamed_into_place_and_away(inbox: Path, hints: Hints) -> None:
    outside = inbox.parent / "upload"
    outside.write_bytes(b"1")
    outside.rename(inbox / "a.jpeg")
    wait_for(lambda: hints == [("inbox/a.jpeg", False)])
    (inbox / "b.jpeg.part").write_bytes(b"2")
    (inbox / "b.jpeg.part").rename(inbox / "b.jpeg")
    wait_for(lambda: hints[1:] == [("inbox/b.jpeg", False)])
    (inbox / "b.jpeg").rename(inbox / "c.jpeg")
    wait_for(lambda: sorted(hints[2:]) == [("inbox/b.jpeg", True), ("inbox/c.jpeg", False)])


@pytest.mark.usefixtures("watcher")
def test_a_linked_file_which_nobody_closes(inbox: Path, hints: Hints) -> None:
    outside = inbox.parent / "upload"
    outside.write_bytes(b"1")
    (inbox / "a.jpeg").hardlink_to(outside)
    wait_for(lambda: hints == [("inbox/a.jpeg", False)])


@pytest.mark.usefixtures("watcher")
def test_what_nobody_closed_is_looked_at_again(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a preallocated copy, which keeps still and fills up without a trace."""
    monkeypatch.setattr("pipeline.hints._SECOND_LOOK_SECONDS", 0.5)
    outside = inbox.parent / "upload"
    outside.write_bytes(b"1")
    (inbox / "a.jpeg").hardlink_to(outside)
    wait_for(lambda: hints == [("inbox/a.jpeg", False)] * 2)
    time.sleep(1)
    assert len(hints) == 2


@pytest.mark.usefixtures("watcher")
def test_whole_folders_come_and_go(inbox: Path, hints: Hints) -> None:
    outside = inbox.parent / "ward"
    (outside / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        (outside / name).write_bytes(b"1")
    outside.rename(inbox / "ward")
    expected = {("inbox/ward/a", False), ("inbox/ward/b", False), ("inbox/ward/deep/c", False)}
    wait_for(lambda: set(hints) == expected)
    (inbox / "ward/deep/d").write_bytes(b"2")
    wait_for(lambda: ("inbox/ward/deep/d", False) in hints)
    shutil.rmtree(inbox / "ward")
    wait_for(
        lambda: {key for key, removed in hints if removed} == {key for key, removed in hints if not removed}
    )


@pytest.mark.usefixtures("watcher")
def test_what_is_no_finished_file_is_ignored(inbox: Path, hints: Hints) -> None:
    for name in (".DS_Store", "a.part", "b.tmp", "c.CRDOWNLOAD", "Thumbs.db"):
        (inbox / name).write_bytes(b"1")
    (inbox / ".hidden").mkdir()
    (inbox / ".hidden/d.jpeg").write_bytes(b"1")
    os.mkfifo(inbox / "pipe")
    (inbox / "link.jpeg").symlink_to("/etc/hostname")
    (inbox / "z.jpeg").write_bytes(b"1")
    wait_for(lambda: bool(hints))
    time.sleep(1)
    assert hints == [("inbox/z.jpeg", False)]


@pytest.mark.parametrize("watcher", ["watching"], indirect=True)
def test_a_slow_writer_is_waited_for(inbox: Path, hints: Hints, watcher: InboxWatcher) -> None:
    watcher._hints.settle_seconds = 60  # so that only the close can tell
    path = inbox / "slow.jpeg"
    with path.open("wb") as file:
        for _ in range(12):
            file.write(b"x" * 1000)
            file.flush()
            time.sleep(0.1)
        assert not hints
    wait_for(lambda: hints == [("inbox/slow.jpeg", False)])
    (inbox / "slow.jpeg").rename(inbox / "renamed.jpeg")
    wait_for(lambda: ("inbox/renamed.jpeg", False) in hints)


def test_the_first_scan_says_what_is_there(inbox: Path, hints: Hints) -> None:
    for number in range(3):
        path = inbox / f"{number}.jpeg"
        path.write_bytes(b"1")
        os.utime(path, (1, 1))
    (inbox / "young.jpeg").write_bytes(b"1")
    watcher = InboxWatcher(inbox.parent, lambda key, removed: hints.append((key, removed)))
    watcher.start()
    wait_for(lambda: len(hints) == 4)
    watcher.stop()
    assert {key for key, removed in hints if not removed} >= {"inbox/0.jpeg", "inbox/young.jpeg"}


def test_lost_events_are_made_good_by_a_scan(inbox: Path, hints: Hints) -> None:
    """As when the system's queue runs over, of which watchdog warns in its log."""
    import logging

    watcher = InboxWatcher(inbox.parent, lambda key, removed: hints.append((key, removed)))
    watcher.start()
    assert watcher._observer is not None
    watcher._observer.unschedule_all()
    (inbox / "a.jpeg").write_bytes(b"1")
    time.sleep(0.7)
    assert not hints
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed")
    wait_for(lambda: hints == [("inbox/a.jpeg", False)])
    watcher.stop()


def test_stopping_leaves_no_thread(inbox: Path) -> None:
    before = threading.active_count()
    watcher = InboxWatcher(inbox.parent, lambda key, removed: None)
    watcher.start()
    watcher.stop()
    wait_for(lambda: threading.active_count() == before)


@pytest.mark.usefixtures("watcher")
def test_an_inbox_that_is_deleted_and_made_again(inbox: Path, hints: Hints) -> None:
    (inbox / "a.jpeg").write_bytes(b"1")
    wait_for(lambda: ("inbox/a.jpeg", False) in hints)
    shutil.rmtree(inbox)
    time.sleep(0.3)
    inbox.mkdir()
    wait_for(lambda: ("inbox/a.jpeg", True) in hints)
    (inbox / "b.jpeg").write_bytes(b"1")
    wait_for(lambda: ("inbox/b.jpeg", False) in hints)


@pytest.mark.usefixtures("watcher")
def test_what_may_not_be_read_gets_some_time(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.hints._UNREADABLE_SECONDS", 3)
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("secret.jpeg"))
    (inbox / "secret.jpeg").write_bytes(b"1")
    time.sleep(1.5)
    assert not hints
    wait_for(lambda: hints == [("inbox/secret.jpeg", False)])


def test_what_went_while_nobody_watched_is_said(inbox: Path, hints: Hints) -> None:
    (inbox / "there.jpeg").write_bytes(b"1")
    watcher = InboxWatcher(inbox.parent, lambda key, removed: hints.append((key, removed)))
    watcher.start(known=["inbox/there.jpeg", "inbox/gone.jpeg"])
    watcher.stop()
    assert ("inbox/gone.jpeg", True) in hints
    assert ("inbox/there.jpeg", True) not in hints


def follow(inbox: Path, hints: Hints, **options: Any) -> InboxWatcher:
    return InboxWatcher(inbox.parent, lambda key, removed: hints.append((key, removed)), **options)


@pytest.mark.usefixtures("watcher")
def test_a_cut_or_empty_file_is_waited_for(
    inbox: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that make an empty file first, close twice, write with pauses, or reserve the room."""
    monkeypatch.setattr("pipeline.hints._CUT_SECONDS", 2.5)
    monkeypatch.setattr("pipeline.hints._EMPTY_SECONDS", 2.5)
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
    follow(inbox, hints).scan(time.time() + 1)
    assert {key for key, _ in hints} == {"inbox/empty", "inbox/cut"}


@pytest.mark.parametrize("poll", [False, True])
def test_a_hint_that_fails_is_given_again(
    inbox: Path, hints: Hints, poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the index is locked or the disk is full; a problem is told meanwhile, without the name."""
    monkeypatch.setattr("pipeline.hints._RETRY_SECONDS", 0.2)
    broken = True

    def hint(key: str, removed: bool) -> None:
        if broken:
            raise StoreError("the disk is full")
        hints.append((key, removed))

    (inbox / "old").write_bytes(b"1")
    os.utime(inbox / "old", (1, 1))
    watcher = InboxWatcher(inbox.parent, hint, poll)
    watcher._rescan_seconds = watcher._hints.settle_seconds = 0.2
    watcher.start(known=["inbox/gone"])
    (inbox / "new").write_bytes(b"1")
    wait_for(lambda: bool(watcher.problems()))
    time.sleep(1)
    assert watcher.problems() == ["New X-rays cannot be queued, which is tried again: the disk is full."]
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

    signature = Hints_._signature
    monkeypatch.setattr(Hints_, "_signature", lambda self, found: signature(self, wandering(found)))
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
    """Also where the share shows no change of the file."""
    monkeypatch.setattr("pipeline.hints._UNREADABLE_SECONDS", 0.5)
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
    """As at the limit of inotify: it is said, and tried again."""
    monkeypatch.setattr("pipeline.watch._SCAN_SECONDS", 0.3)
    watcher = follow(inbox, hints, rescan_seconds=1)
    watcher.start()
    observer = watcher._observer
    assert observer is not None

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    with monkeypatch.context() as limited:
        limited.setattr("pipeline.watch.Observer", refuse)
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
    """Watches of single folders are refused without a word."""
    monkeypatch.setattr("pipeline.watch._SCAN_SECONDS", 0.3)
    watcher = follow(inbox, hints, rescan_seconds=1.5)
    watcher.start()
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
    wait_for(lambda: watcher.problems() == ["The inbox is not there: make the folder again."])
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
