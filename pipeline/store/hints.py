"""Decide when to give a hint about a file: once for each state in which it is at rest, until one succeeds.

A file is at rest when its writer closed it, or when it did not change for a moment. An empty or apparently
truncated file gets more time, as many programs write a file in several steps; so does one that may not be
read.
"""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CxrError, StoreError, place_of
from pipeline.store.arrival import FileId, looks_whole, still_written
from pipeline.store.files import open_beneath, state
from pipeline.store.ledger import Known, Ledger, packed

log = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.5  # how long a file must stay unchanged if its writer's close is not seen
_SETTLE_POLLING = 2.0  # on a network share, whose times are another machine's and arrive late
# After taking a file without seeing a close: a preallocated copy looks unchanged while it fills up.
_SECOND_LOOK_SECONDS = 10.0
_CUT_SECONDS = 10.0  # for a file that looks truncated: its writer may pause, or reopen it
_EMPTY_SECONDS = 30.0  # for an empty file, whose content is still to come
_UNREADABLE_SECONDS = 10.0  # for an unreadable file to become readable
_RETRY_SECONDS = 1.0  # before a failed hint is given again
_ROOM = 10_000  # files that a scan may let wait here
_MOST_LOCKED = 10_000  # unreadable files that are watched for becoming readable

Hint = Callable[[str, bool], None]  # takes a key, and whether it was removed
Offer = Callable[[str, bool], bool]  # the same of a file that can wait; returns whether there was room for it


@dataclass
class _Rest:
    """Describe a file not reported yet: its last state, since when, and for how long it must be at rest."""

    signature: bytes | None  # None: the file is gone
    since: float
    patience: float | None = None  # None: not determined yet


class Hints:
    """Give hints about the files beneath a root; `problem` says why the last one failed, without a key.

    A root that is polled is a share whose inodes and change times may differ at each look.
    """

    def __init__(
        self, root: Path, hint: Hint, poll: bool, ledger: Ledger, offer: Offer | None = None
    ) -> None:
        self._root, self._hint, self._poll, self._ledger, self._offer = root, hint, poll, ledger, offer
        self.settle_seconds = _SETTLE_POLLING if poll else _SETTLE_SECONDS
        self.problem: str | None = None
        self.has_left = False  # a scan left files for which there was no room
        self._restless: dict[str, _Rest] = {}
        self._unsure: dict[str, float] = {}  # reported without a close: when to report it once more
        self._locked: set[str] = set()  # reported, but not readable
        self._unlock = 0.0  # when to check next whether they are readable
        self._guard = threading.RLock()

    def is_known(self, key: str) -> bool:
        """Return whether a file was reported as present, or is waited for."""
        return key in self._restless or self._ledger.get(key) is not None

    def look(self, key: str, closed: bool = False, can_wait: bool = False) -> None:
        """Note the state of a file; report it at once if its writer `closed` it and it is whole.

        That it is gone `can_wait` for room.
        """
        found = self._state(key)
        if found:
            self.found(key, found, closed)
        else:
            self.gone(key, can_wait)

    def found(self, key: str, found: os.stat_result, closed: bool = False) -> None:
        """Note this state of a file; report it at once if it is `closed` and whole."""
        with self._guard:
            if self._is_said(key, packed(found)):
                self._restless.pop(key, None)
                return
            rest = self._notice(key, packed(found))
            if closed:
                rest.patience = self._patience(key, found.st_size)
            if rest.patience == 0:
                self._say(key, packed(found))

    def come_across(self, key: str, found: os.stat_result, old: float) -> None:
        """Note a file that a scan found new or changed; report it if it last changed before the time `old`.

        It is left to a later scan where there is no room for it.
        """
        if self.has_left and max(found.st_mtime, found.st_ctime) < old:
            return
        now = self._state(key)  # the scan looked at many others since
        if now is None:
            return
        changed, state = max(now.st_mtime, now.st_ctime), packed(now)
        with self._guard:
            known = self._ledger.get(key)
            if known and known.source == state:
                self._restless.pop(key, None)
            elif changed < old:
                self._say_old(key, state, min(changed, time.time()))
            elif key in self._restless or len(self._restless) < _ROOM:
                self.found(key, now)
            else:
                self.has_left = True

    def again(self, key: str) -> None:
        """Report a file once more whose delivery did not end in a final answer, when there is room."""
        if self._offer and key not in self._restless and not self._give(key, can_wait=True):
            self.has_left = True

    def is_as_said(self, key: str, known: Known, found: os.stat_result, is_start: bool) -> bool:
        """Return whether a file is in the state that was reported.

        At the start, all numbers have to agree even where they may wander, as nobody watched before.
        Otherwise the file is not done.
        """
        state = packed(found)
        if known.source == state:
            return True
        if not self._is_same(known.source, state):
            return False
        if is_start:
            self._ledger.say(key, state, min(max(found.st_mtime, found.st_ctime), time.time()))
            self.again(key)
        return True

    def gone(self, key: str, can_wait: bool = False) -> None:
        """Report that a file was removed, if it had been reported as present."""
        with self._guard:
            if self._ledger.get(key) and not self._give(key, True, can_wait):
                if can_wait:
                    self.has_left = True
                else:
                    self._restless[key] = _Rest(None, time.monotonic(), _RETRY_SECONDS)
                return
            self._ledger.gone(key)
            for kept in (self._restless, self._unsure):
                kept.pop(key, None)
            self._locked.discard(key)

    def missing(self, key: str) -> None:
        """Report that a file known from before is gone, if it is."""
        with self._guard:
            if not self.is_known(key) and self._state(key) is None:
                self._ledger.say(key, b"", time.time())
                self.gone(key, can_wait=True)

    def settle(self) -> None:
        """Report the files that came to rest since the last call, and those due to be reported again."""
        with self._guard:
            now, doubtful = time.monotonic(), dict[str, FileId]()
            for key, rest in list(self._restless.items()):
                if now - rest.since < min(self.settle_seconds, _RETRY_SECONDS):
                    continue
                found = self._state(key)
                if found is None:
                    self.gone(key)
                elif not self._is_same(rest.signature, packed(found)):
                    self._notice(key, packed(found))
                elif self._is_at_rest(key, rest, found.st_size, now):
                    if rest.patience in (_CUT_SECONDS, _EMPTY_SECONDS):
                        doubtful[key] = found.st_dev, found.st_ino
                    else:
                        self._say_unclosed(key)
            written = still_written(doubtful.values())
            for key, identity in doubtful.items():
                if identity in written:
                    self._restless[key].since = now
                else:
                    self._say_unclosed(key)
            self._say_again(now)

    def _is_at_rest(self, key: str, rest: _Rest, size: int, now: float) -> bool:
        if now - rest.since < self.settle_seconds:
            return False
        if rest.patience is None:
            rest.patience = self._patience(key, size)
        return now - rest.since >= rest.patience

    def _patience(self, key: str, size: int) -> float:
        """Return for how long a file must be at rest before it is taken, judged from the file alone."""
        if not size:
            return _EMPTY_SECONDS
        if not self._is_readable(key):
            return _UNREADABLE_SECONDS
        with suppress(StoreError), open_beneath(str(self._root), key.split("/")) as file:
            if file and looks_whole(file, size):
                return 0
        return _CUT_SECONDS

    def _notice(self, key: str, signature: bytes) -> _Rest:
        rest = self._restless.get(key)
        if rest is None or not self._is_same(rest.signature, signature):
            rest = self._restless[key] = _Rest(signature, time.monotonic())
        return rest

    def _say_unclosed(self, key: str) -> None:
        signature = self._restless[key].signature
        if signature is not None and self._say(key, signature):
            self._unsure[key] = time.monotonic() + _SECOND_LOOK_SECONDS

    def _say(self, key: str, signature: bytes) -> bool:
        if not self._give(key):
            self._restless[key] = _Rest(signature, time.monotonic(), _RETRY_SECONDS)
            return False
        self._note_said(key, signature, time.time())
        return True

    def _say_old(self, key: str, signature: bytes, since: float) -> None:
        if not self._ledger.is_full:
            self._note_said(key, signature, since)  # first: its delivery may end at once
            if self._give(key, can_wait=True):
                return
            self._ledger.gone(key)
        self.has_left = True

    def _note_said(self, key: str, signature: bytes, since: float) -> None:
        self._restless.pop(key, None)
        self._ledger.say(key, signature, since)
        if not self._is_readable(key) and len(self._locked) < _MOST_LOCKED:
            self._locked.add(key)

    def _say_again(self, now: float) -> None:
        for key in [key for key, due in self._unsure.items() if due <= now]:
            if self._give(key):
                self._ledger.undo(key)
                del self._unsure[key]
            else:
                self._unsure[key] = now + _RETRY_SECONDS
        if now >= self._unlock:
            self._unlock = now + _RETRY_SECONDS
            for key in [key for key in self._locked if self._is_readable(key)]:
                self._locked.discard(key)
                self._ledger.say(key, b"", time.time())
                self.look(key)

    def _give(self, key: str, removed: bool = False, can_wait: bool = False) -> bool:
        """Give a hint, or offer it where it `can_wait`; return False when it failed, or there was no room."""
        is_taken = True
        try:
            if can_wait and self._offer:
                is_taken = self._offer(key, removed)
            else:
                self._hint(key, removed)
        except Exception as error:  # noqa: BLE001  the watch has to go on after any error
            why = str(error) if isinstance(error, CxrError) else place_of(error)
            if self.problem is None:
                log.error("a hint failed, and will be given again: %s", why)
            self.problem = f"New X-rays cannot be queued; trying again: {why}."
            return False
        self.problem = None
        return is_taken

    def _is_readable(self, key: str) -> bool:
        return os.access(self._root / key, os.R_OK)

    def _state(self, key: str) -> os.stat_result | None:
        """Return the status of a file; None for links, pipes and missing files."""
        found = state(str(self._root), key.split("/"))
        return found if found and stat.S_ISREG(found.st_mode) else None

    def _is_said(self, key: str, signature: bytes) -> bool:
        known = self._ledger.get(key)
        return known is not None and self._is_same(known.source, signature)

    def _is_same(self, one: bytes | None, other: bytes) -> bool:
        """Return whether two signatures are of one state; of a polled file, only size and time count."""
        if self._poll and one:
            return one[:16] == other[:16]
        return one == other
