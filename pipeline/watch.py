"""Plays S3's notifications for a folder: says which inbox keys appeared, changed or went.

A watch is a hint. Events of the system are lost when they come too fast, and network shares give none; so
the inbox is also scanned, at the start and every so often, and what differs from the last look is said.
"""

import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
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

from pipeline.errors import UsageError
from pipeline.names import INBOX, is_unfinished

log = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.5  # how long a file must keep still where nothing says that its writer closed it
_SETTLE_POLLING = 2.0  # on a network share, whose times are another machine's and come late
# After a file was taken that nobody closed: a preallocated copy keeps still, and fills up.
_SECOND_LOOK_SECONDS = 10.0
_UNREADABLE_SECONDS = 10.0  # for a file that may not be read to become readable
_MISSING_SECONDS = 1.0  # between looks for an inbox that was deleted
_TICK_SECONDS = 0.1
_OLD_SECONDS = 60.0  # at the start, a file untouched for so long is not being written

# Not those of reading: our own reading would wake us.
_EVENTS: list[type[FileSystemEvent]] = [
    *(DirCreatedEvent, DirDeletedEvent, DirMovedEvent),
    *(FileClosedEvent, FileCreatedEvent, FileDeletedEvent, FileModifiedEvent, FileMovedEvent),
]

Signature = tuple[int, int, int, int]  # inode, size, mtime, ctime
Hint = Callable[[str, bool], None]  # key, whether it was removed


class InboxWatcher(FileSystemEventHandler):
    """Calls `hint(key, removed)` from its own threads, once for each state of a file that it saw at rest."""

    def __init__(self, root: Path, hint: Hint, poll: bool = False, rescan_seconds: float = 30) -> None:
        self._root, self._inbox, self._hint, self._poll = root, root / INBOX, hint, poll
        self._rescan_seconds = 2.0 if poll else rescan_seconds
        self._settle = _SETTLE_POLLING if poll else _SETTLE_SECONDS
        self._said: dict[str, Signature] = {}  # what the last hint for a key was about
        self._restless: dict[str, tuple[Signature, float]] = {}  # not said yet: as last seen, and since when
        self._unsure: dict[str, float] = {}  # said without a close: when to say it once more
        self._guard = threading.RLock()
        self._complaints = _Complaints(self._scan_soon)
        self._stopped = threading.Event()
        self._watched: tuple[int, int] | None = None  # which folder the system watches
        self._due = 0.0  # when the next scan is to be, on the monotonic clock
        self._thread = threading.Thread(target=self._loop, name="cxr-watch", daemon=True)
        # On Linux, ask for renames across the inbox's border too: they come as moves without the other end.
        options = {"generate_full_events": True} if sys.platform == "linux" else {}
        self._observer = None if poll else Observer(**options)

    def start(self, known: Iterable[str] = ()) -> None:
        """Begin to watch; the first scan has been made when this returns.

        Of the keys `known` from before, those that are not there any more are said to be removed. UsageError
        when the system cannot watch.
        """
        if self._observer:
            try:
                self._watch()
                self._observer.start()
            except OSError as error:
                raise UsageError(f"the inbox cannot be watched ({error.strerror}); use --poll") from error
        self.scan(time.time() - _OLD_SECONDS)
        for key in known:
            if self._state(key) is None:
                self._hint(key, True)
        self._due = time.monotonic() + self._rescan_seconds
        logging.getLogger("watchdog").addHandler(self._complaints)
        self._thread.start()

    def stop(self) -> None:
        """End the watch and wait for its threads."""
        self._stopped.set()
        logging.getLogger("watchdog").removeHandler(self._complaints)
        if self._thread.ident:
            self._thread.join(10)
        if self._observer and self._observer.ident:
            self._observer.stop()
            self._observer.join(10)

    def scan(self, old: float = 0) -> None:
        """Compare the whole inbox with what was said; files last
        changed before the time `old` count as at rest.
        """
        inbox = _identity(self._inbox)
        if inbox is None:
            self._due = time.monotonic() + _MISSING_SECONDS
        elif self._observer and inbox != self._watched:
            self._watch()  # the folder was deleted and made again, and its watch went with it
        unread: list[OSError] = []
        found = dict(self._files(unread.append))
        if unread:
            log.warning("%d folders of the inbox cannot be read; check their permissions", len(unread))
        hidden = tuple(
            f"{error.filename}{os.sep}" for error in unread
        )  # nothing is known of what is in there
        with self._guard:
            for key, (signature, changed) in found.items():
                if self._said.get(key) != signature:
                    settled = changed < old and self._is_ready(key, (signature, changed))
                    self._say(key, signature) if settled else self._notice(key, signature)
            for key in self._said.keys() - found.keys():
                if not str(self._root / key).startswith(hidden):
                    self._unsay(key)

    def _watch(self) -> None:
        assert self._observer is not None
        self._observer.unschedule_all()
        self._watched = _identity(self._inbox)
        self._observer.schedule(self, str(self._inbox), recursive=True, event_filter=_EVENTS)

    def on_closed(self, event: FileSystemEvent) -> None:
        """Its writer closed it: take it at once (Linux only)."""
        self._take(event.src_path)

    def on_moved(self, event: FileSystemEvent) -> None:
        """Renamed into place, or away."""
        if event.is_directory:
            self._scan_soon()
        else:
            self._look(event.src_path)
            self._take(event.dest_path)

    def on_created(self, event: FileSystemEvent) -> None:
        """Its writer may not have finished; a folder may have come with files in it."""
        self._scan_soon() if event.is_directory else self._look(event.src_path)

    def on_modified(self, event: FileSystemEvent) -> None:
        """Its writer may not have finished."""
        self._look(event.src_path)

    def on_deleted(self, event: FileSystemEvent) -> None:
        """A file, or a folder with all its files."""
        self._scan_soon() if event.is_directory else self._look(event.src_path)

    def _scan_soon(self) -> None:
        self._due = 0.0

    def _take(self, path: bytes | str) -> None:
        key = self._key(path)
        state = self._state(key) if key else None
        if key and state:
            with self._guard:
                if self._said.get(key) == state[0]:
                    return
                self._say(key, state[0]) if self._is_ready(key, state) else self._notice(key, state[0])

    def _look(self, path: bytes | str) -> None:
        key = self._key(path)
        if key:
            state = self._state(key)
            with self._guard:
                if state is None:
                    self._unsay(key)
                elif self._said.get(key) != state[0]:
                    self._notice(key, state[0])

    def _is_ready(self, key: str, state: tuple[Signature, float]) -> bool:
        """Whether a file at rest can be taken: one that may not be read gets some time to become readable."""
        return os.access(self._root / key, os.R_OK) or time.time() - state[1] > _UNREADABLE_SECONDS

    def _notice(self, key: str, signature: Signature) -> None:
        if self._restless.get(key, (None, 0))[0] != signature:
            self._restless[key] = (signature, time.monotonic())

    def _say(self, key: str, signature: Signature) -> None:
        self._restless.pop(key, None)
        self._said[key] = signature
        self._hint(key, False)

    def _unsay(self, key: str) -> None:
        self._restless.pop(key, None)
        if self._said.pop(key, None) is not None:
            self._hint(key, True)

    def _loop(self) -> None:
        while not self._stopped.wait(_TICK_SECONDS):
            self._settle_restless()
            if time.monotonic() < self._due:
                continue
            self._due = time.monotonic() + self._rescan_seconds
            self.scan()

    def _settle_restless(self) -> None:
        with self._guard:
            for key, (signature, since) in list(self._restless.items()):
                state = self._state(key)
                if state is None:
                    self._unsay(key)
                elif state[0] != signature:
                    self._notice(key, state[0])
                elif time.monotonic() - since >= self._settle and self._is_ready(key, state):
                    self._say(key, signature)
                    self._unsure[key] = time.monotonic() + _SECOND_LOOK_SECONDS
            for key in [key for key, due in self._unsure.items() if due <= time.monotonic()]:
                del self._unsure[key]
                if key in self._said:
                    self._hint(key, False)

    def _files(self, unread: Callable[[OSError], None]) -> Iterator[tuple[str, tuple[Signature, float]]]:
        for folder, folders, names in os.walk(self._inbox, onerror=unread):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                key = self._key(os.path.join(folder, name))  # noqa: PTH118  os.walk's own, in the inner loop
                state = self._state(key) if key else None
                if key and state:
                    yield key, state

    def _key(self, path: bytes | str) -> str | None:
        """The key of a path of the inbox; None for what is no finished file by its name."""
        try:
            parts = Path(os.fsdecode(path)).relative_to(self._inbox).parts
        except ValueError:
            return None  # the other end of a rename from outside
        key = INBOX + "/".join(parts)
        return None if not parts or is_unfinished(key) else key

    def _state(self, key: str) -> tuple[Signature, float] | None:
        """What the file is now, and when it last changed; None for links, pipes and what is not there."""
        try:
            state = os.lstat(self._root / key)
        except OSError:
            return None
        if not stat.S_ISREG(state.st_mode):
            return None
        signature = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        return signature, max(state.st_mtime, state.st_ctime)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        state = folder.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


class _Complaints(logging.Handler):
    """watchdog tells of lost events in its log alone: whatever it warns of, a scan makes good."""

    def __init__(self, scan_soon: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._scan_soon = scan_soon

    def emit(self, record: logging.LogRecord) -> None:
        self._scan_soon()
