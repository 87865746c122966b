"""Run work in parallel, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, Semaphore
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def unordered(
    pool: Executor, work: Callable[[_Item], _Result], items: Iterable[_Item], limit: int
) -> Iterator[_Result]:
    """Yield the results in the order in which they finish; at most `limit` items are under way at a time.

    Work that has not begun is dropped when the caller stops iterating.
    """
    running: set[Future[_Result]] = set()
    finished: SimpleQueue[Future[_Result]] = SimpleQueue()

    def next_result() -> _Result:
        future = finished.get()
        running.remove(future)
        return future.result()

    try:
        for item in items:
            future = pool.submit(work, item)
            running.add(future)
            future.add_done_callback(finished.put)
            if len(running) >= limit:
                yield next_result()
        while running:
            yield next_result()
    finally:
        for future in running:
            future.cancel()


class Turn:
    """Hold the right to use a core, which an image that turns out to be slow gives up early."""

    def __init__(self, turns: Semaphore, aside: Semaphore) -> None:
        self._turns, self._aside = turns, aside
        self._guard, self._is_aside, self._is_over = Lock(), False, False

    def stand_aside(self) -> None:
        """Let another image have this turn, unless too many already stand aside."""
        with self._guard:
            if not self._is_over and not self._is_aside and self._aside.acquire(blocking=False):
                self._is_aside = True
                self._turns.release()

    def end(self) -> None:
        """Release what is held."""
        with self._guard:
            self._is_over = True
            (self._aside if self._is_aside else self._turns).release()


class Turns:
    """Give out as many turns at a time as there are cores to use; as many slow images may stand aside."""

    def __init__(self, limit: int) -> None:
        self._turns, self._aside = Semaphore(limit), Semaphore(limit)

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Wait for a turn, and hold it in a `with` block."""
        self._turns.acquire()
        turn = Turn(self._turns, self._aside)
        try:
            yield turn
        finally:
            turn.end()
