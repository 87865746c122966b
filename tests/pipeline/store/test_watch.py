"""The watcher, over a real folder."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.watch import InboxWatcher
from tests.support.machines import wait_for

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


def started(watcher: InboxWatcher, **given: Any) -> InboxWatcher:
    """Start a watcher; return it after its first scan."""
    watcher.start(**given)
    wait_for(lambda: watcher._known is None)
    return watcher


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
    """A preallocated copy keeps still and fills up without a trace."""
    monkeypatch.setattr("pipeline.store.hints._SECOND_LOOK_SECONDS", 0.5)
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
    watcher._hints.settle_seconds = 60  # only the close event can tell
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
    """watchdog logs a warning when the system's queue overflows."""
    import logging

    watcher = InboxWatcher(inbox.parent, lambda key, removed: hints.append((key, removed)))
    started(watcher)
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
    monkeypatch.setattr("pipeline.store.hints._UNREADABLE_SECONDS", 3)
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("secret.jpeg"))
    (inbox / "secret.jpeg").write_bytes(b"1")
    time.sleep(1.5)
    assert not hints
    wait_for(lambda: hints == [("inbox/secret.jpeg", False)])


def test_what_went_while_nobody_watched_is_said(inbox: Path, hints: Hints) -> None:
    (inbox / "there.jpeg").write_bytes(b"1")
    watcher = InboxWatcher(inbox.parent, lambda key, removed: hints.append((key, removed)))
    started(watcher, known=lambda: ["inbox/there.jpeg", "inbox/gone.jpeg"]).stop()
    assert ("inbox/there.jpeg", True) not in hints
