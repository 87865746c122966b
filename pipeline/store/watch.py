"""Produce S3's notifications for a folder: which inbox keys appeared, changed or went.

A watch is a hint. The system loses events that come too fast, and network shares give none. So the inbox is
also scanned, at the start and at intervals, and differences from the last look are reported.
"""

import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from pipeline.errors import UsageError, place_of
from pipeline.names import INBOX, is_unfinished
from pipeline.running.background import Background
from pipeline.store.hints import Hint, Hints, Offer
from pipeline.store.ledger import Ledger, state_of
from pipeline.store.walk import entries

log = logging.getLogger(__name__)

_MISSING_SECONDS = 1.0  # between checks for a deleted inbox
_TICK_SECONDS = 0.1
_FLUSH_SECONDS = 1.0  # between two writes of the ledger
_BATCH = 500  # files of a scan that are looked up together
_OLD_SECONDS = 60.0  # at the start, a file unchanged for this long is not being written
_SCAN_SECONDS = 2.0  # between scans where the system reports nothing
_PAUSE_FACTOR = 5  # least pause between scans, in durations of a scan: a tree may be huge
_MISSED_SECONDS = 300.0  # how long scans stay frequent after one found an unreported change

Keys = Callable[[], Iterable[str]]

# Without the events of reading: our own reading would trigger them.
_EVENTS: list[type[FileSystemEvent]] = [
    *(DirCreatedEvent, DirDeletedEvent, DirMovedEvent),
    *(FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileModifiedEvent, FileMovedEvent),
]


class InboxWatcher(FileSystemEventHandler):
    """Call `hint(key, removed)` from its own threads, once for each state of a file that it saw at rest.

    A hint that raises is given again. Files that were there before go to `offer` instead, which takes them
    when it has room, and again until the `ledger` knows that their delivery ended. `background` runs the
    scans; without one the watcher has its own.
    """

    def __init__(
        self,
        root: Path,
        hint: Hint,
        poll: bool = False,
        rescan_seconds: float = 30,
        background: Background | None = None,
        ledger: Ledger | None = None,
        offer: Offer | None = None,
    ) -> None:
        self._root, self._inbox, self._poll = root, root / INBOX, poll
        self._rescan_seconds = _SCAN_SECONDS if poll else rescan_seconds
        self._ledger = ledger or Ledger(root)
        self._hints = Hints(root, hint, poll, self._ledger, offer)
        self._trouble: dict[str, str] = {}  # problems, in sentences without a key
        self._complaints = _Complaints(self._scan_soon)
        self._background, self._is_own = background or Background(), background is None
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None  # which folder the system watches
        self._due = 0.0  # when the next scan is due, on the monotonic clock
        self._retry = 0.0  # when to ask the system again to report changes
        self._scan_took = 0.0  # seconds
        self._missed = 0.0  # until when frequent scans make up for unreported changes
        self._old = 0.0  # files last changed before this time were there at the start
        self._known: tuple[Keys, Keys] | None = None  # to be compared after the first scan
        self._parts: set[str] = set()  # folders to be scanned
        self._settle_due = self._flush_due = 0.0

    def start(self, known: Keys = tuple, unsettled: Keys = tuple) -> None:
        """Begin to watch; a first scan follows at once.

        Of the keys `known` from before and those `unsettled`, those that no longer exist are reported as
        removed; the others of those `unsettled` are offered again. Raises UsageError when the system cannot
        watch.
        """
        error = None if self._poll else self._observe()
        if isinstance(error, OSError):
            raise UsageError(f"the inbox cannot be watched ({error.strerror}); use --poll") from error
        self._known, self._old = (known, unsettled), time.time() - _OLD_SECONDS
        logging.getLogger("watchdog").addHandler(self._complaints)
        self._background.start("inbox watcher", self._loop)

    def stop(self) -> None:
        """Stop watching and wait for its threads; those of a given `background` end with that."""
        if self._is_own:
            self._background.stop()
        logging.getLogger("watchdog").removeHandler(self._complaints)
        self._forget_observer()
        self._ledger.close()

    def problems(self) -> list[str]:
        """Return one sentence for each part that does not work as it should; none holds a key."""
        own = self._background.problems() if self._is_own else []
        return [*own, *self._trouble.values(), *filter(None, [self._hints.problem])]

    def scan(self, is_news: bool = True, prefix: str = INBOX, old: float | None = None) -> None:
        """Compare the inbox, or the part of it under a prefix, with the reports so far.

        Files last changed before the time `old`, else before the start, count as at rest. With `is_news`
        False, the system should already have reported every change.
        """
        unread, number, count = set[str](), self._ledger.begin_scan(), 0
        old, had_left = self._old if old is None else old, self._hints.has_left
        if prefix == INBOX:
            self._hints.has_left = False
        tree = entries(self._root, prefix, lambda folder, _: unread.add(f"{folder}/"), _enters, True)
        found = _states(tree, unread)
        while batch := list(islice(found, _BATCH)):
            count += self._compare(batch, number, old, is_news or had_left)
            if not self._goes_on():
                return
        if prefix != INBOX or self._ledger.count(number) > count:
            self._find_gone(prefix, unread)
        if unread:
            log.warning(
                "%d folders or files of the inbox cannot be read; check their permissions", len(unread)
            )
        if prefix == INBOX:
            self._note(
                "unread", "Parts of the inbox cannot be read: check their permissions." if unread else None
            )

    def dispatch(self, event: FileSystemEvent) -> None:
        """Take an event of the system; a scan makes good any error."""
        try:
            super().dispatch(event)
        except Exception as error:  # noqa: BLE001  an error would end the system's watch
            log.error("an event of the inbox failed: %s", place_of(error))
            self._scan_soon()

    def on_closed(self, event: FileSystemEvent) -> None:
        """Take a file at once that its writer closed (Linux only)."""
        self._look(event.src_path, closed=True)

    def on_moved(self, event: FileSystemEvent) -> None:
        """Look at both ends of a move into place, or away."""
        if event.is_directory:
            self._scan_part(event.src_path)
            self._scan_part(event.dest_path)
        else:
            self._look(event.src_path)
            self._look(event.dest_path, closed=True)

    def on_created(self, event: FileSystemEvent) -> None:
        """Look at a new file, which may be unfinished; scan a new folder, which may hold files."""
        self._scan_part(event.src_path) if event.is_directory else self._look(event.src_path)

    def on_modified(self, event: FileSystemEvent) -> None:
        """Look at a file whose writer may not have finished."""
        self._look(event.src_path)

    def on_deleted(self, event: FileSystemEvent) -> None:
        """Note a deleted file; scan for a folder, which goes with all its files."""
        self._scan_part(event.src_path) if event.is_directory else self._look(event.src_path)

    def _scan_soon(self) -> None:
        self._due = 0.0

    def _scan_part(self, path: bytes | str) -> None:
        """Scan a folder soon, and not the whole inbox, which may be huge."""
        inside = self._key(f"{os.fsdecode(path)}/x")
        if inside == f"{INBOX}x":
            self._scan_soon()
        elif inside:
            self._parts.add(inside.removesuffix("x"))

    def _compare(self, batch: list[tuple[str, os.stat_result]], scan: int, old: float, is_news: bool) -> int:
        """Report what is new among these files; return how many are known from before this scan."""
        known, count, now = self._ledger.find([key for key, _ in batch]), 0, time.time()
        is_start = self._known is not None
        for key, state in batch:
            entry = known.get(key)
            count += entry is not None and entry.scan < scan
            if entry and self._hints.is_as_said(key, entry, state, is_start):
                if entry.is_open(now) or (is_start and entry.verdict is None):
                    self._hints.again(key)
            elif not is_unfinished(key):
                changed = max(state.st_mtime, state.st_ctime)
                is_late = now - changed > _SCAN_SECONDS and changed >= self._old
                if is_late and not is_news and not self._hints.is_known(key):
                    self._missed = time.monotonic() + _MISSED_SECONDS
                self._hints.come_across(key, state, old)
        return count

    def _find_gone(self, prefix: str, unread: set[str]) -> None:
        """Report the known files under a prefix that are gone, except in folders that cannot be read."""
        for page in self._ledger.pages(prefix):
            for key, _ in page:
                if state_of(self._root, key) is None and not key.startswith(tuple(unread)):
                    # Not `gone`: the file may have appeared after the scan passed.
                    self._hints.look(key, can_wait=True)
            if not self._goes_on():
                return

    def _check_known(self, known: Keys, unsettled: Keys) -> None:
        """Compare what was known before the start with the inbox, and verdicts with those that were known."""
        for keys, is_known in ((unsettled(), True), (known(), False)):
            rest = iter(keys)
            while batch := list(islice(rest, _BATCH)):
                found = self._ledger.find(batch)
                for key in batch:
                    entry = found.get(key)
                    if not entry and state_of(self._root, key) is None:
                        self._hints.missing(key)
                    elif is_known and entry and entry.verdict is not None:  # others are offered by each scan
                        self._undo(key)
                if not self._goes_on():
                    return
        for page in self._ledger.pages(INBOX):
            for key, entry in page:
                if entry.verdict is not None and self._ledger.verdict(key) != entry.verdict:
                    self._undo(key)
            if not self._goes_on():
                return

    def _undo(self, key: str) -> None:
        self._ledger.undo(key)
        self._hints.again(key)

    def _look(self, path: bytes | str, closed: bool = False) -> None:
        key = self._key(path)
        if key:
            self._hints.look(key, closed)

    def _note(self, part: str, problem: str | None) -> None:
        """Keep the problem of one part of the watch; None clears it."""
        if problem:
            self._trouble[part] = problem
        else:
            self._trouble.pop(part, None)

    def _loop(self) -> None:
        pause = 0.0
        while not self._background.stopping.wait(pause):
            self._goes_on()
            if time.monotonic() >= self._due:
                self._rescan()
            while self._parts and self._due and not self._background.stopping.is_set():
                try:
                    self.scan(prefix=self._parts.pop(), old=0)  # its files are new here, however old
                except Exception as error:  # noqa: BLE001  a scan of the whole makes it good
                    log.error("a folder of the inbox could not be scanned: %s", place_of(error))
                    self._scan_soon()
            pause = _TICK_SECONDS

    def _goes_on(self) -> bool:
        """Do what is due, also during a long scan; return False when the watch is to stop."""
        now = time.monotonic()
        if now >= self._settle_due:
            self._hints.settle()
            self._settle_due = time.monotonic() + _PAUSE_FACTOR * (time.monotonic() - now)
        if now >= self._flush_due:
            self._ledger.flush()
            self._flush_due = now + _FLUSH_SECONDS
        return not self._background.stopping.is_set()

    def _rescan(self) -> None:
        is_news, inbox = not self._due or self._observer is None, _identity(self._inbox)
        is_deaf = not self._poll and (inbox != self._watched or not self._is_watching())
        if inbox and is_deaf and time.monotonic() >= self._retry:
            self._observe()  # also when the folder was deleted and made again, which ended its watch
        self._note("inbox", None if inbox else "The inbox is missing: create the folder again.")
        # Set before the scan, because an event during it may ask for another.
        self._parts.clear()
        began = time.monotonic()
        self._due = due = began + (self._interval() if inbox else _MISSING_SECONDS)
        try:
            self.scan(is_news)
            if self._known is not None:
                self._check_known(*self._known)
                self._known = None
        except Exception as error:  # noqa: BLE001  the next scan may succeed
            log.error("the inbox could not be scanned: %s", place_of(error))
            self._note("scan", f"The inbox cannot be scanned; trying again: {place_of(error)}.")
        else:
            self._note("scan", None)
        self._scan_took = time.monotonic() - began
        if self._due == due and inbox:
            self._due = began + self._interval()

    def _interval(self) -> float:
        """Return the seconds between scans; fewer where the system does not report changes."""
        has_missed = not self._poll and time.monotonic() < self._missed
        missed = "Parts of the inbox cannot be watched: they are scanned every few seconds instead."
        self._note("missed", missed if has_missed else None)
        is_blind = not self._poll and (has_missed or self._observer is None)
        is_soon = is_blind or self._hints.has_left
        seconds = min(self._rescan_seconds, _SCAN_SECONDS) if is_soon else self._rescan_seconds
        return max(seconds, _PAUSE_FACTOR * self._scan_took)

    def _observe(self) -> Exception | None:
        """Ask the system to report changes; return the error where it cannot, to be tried again later."""
        self._forget_observer()
        # On Linux, ask for renames across the inbox's border too: they arrive as moves without the other end.
        options = {"generate_full_events": True} if sys.platform == "linux" else {}
        try:
            self._observer = Observer(**options)
            self._watched = _identity(self._inbox)
            self._observer.schedule(self, str(self._inbox), recursive=True, event_filter=_EVENTS)
            self._observer.start()
        except Exception as error:  # noqa: BLE001  a limit of the system, or a tree that is too deep
            self._forget_observer()
            self._retry = time.monotonic() + self._rescan_seconds
            why = error.strerror if isinstance(error, OSError) else type(error).__name__
            instead = "it is scanned every few seconds instead"
            if "observer" not in self._trouble:
                log.warning("the inbox cannot be watched (%s); %s", why, instead)
            self._note("observer", f"The inbox cannot be watched ({why}): {instead}.")
            return error
        self._note("observer", None)
        return None

    def _is_watching(self) -> bool:
        """Return whether all of the observer's threads are alive; it does not report when one dies."""
        if self._observer is None:
            return False
        reader = getattr(self._observer, "_inotify_fd", self._observer)
        return all(thread.is_alive() for thread in (self._observer, reader, *self._observer.emitters))

    def _forget_observer(self) -> None:
        observer, self._observer = self._observer, None
        if observer:
            with suppress(Exception):  # it may be half made, or dead
                observer.stop()
                observer.join(10)

    def _key(self, path: bytes | str) -> str | None:
        """Return the key of a path of the inbox; None where its name is not that of a finished file."""
        try:
            parts = Path(os.fsdecode(path)).relative_to(self._inbox).parts
        except ValueError:
            return None  # the other end of a rename from outside
        key = INBOX + "/".join(parts)
        return None if not parts or is_unfinished(key) else key


def _states(
    tree: Iterable[tuple[str, os.DirEntry[str]]], unread: set[str]
) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files of a walk with their status; note those whose status cannot be read."""
    for key, entry in tree:
        try:
            state = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError:
            unread.add(key)
            continue
        if stat.S_ISREG(state.st_mode):
            yield key, state


def _enters(folder: str) -> bool:
    return not is_unfinished(f"{folder}/x")


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        state = folder.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


class _Complaints(logging.Handler):
    """Request a scan whenever watchdog logs a warning: it reports lost events in its log alone."""

    def __init__(self, scan_soon: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._scan_soon = scan_soon

    def emit(self, record: logging.LogRecord) -> None:
        self._scan_soon()
