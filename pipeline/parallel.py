"""Work side by side, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def unordered(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], limit: int
) -> Iterator[Result]:
    """The results, as they finish; at most `limit` items are taken before their results are.

    What has not begun is dropped when nobody asks on.
    """
    running: set[Future[Result]] = set()
    try:
        for item in items:
            running.add(pool.submit(work, item))
            if len(running) >= limit:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        for future in running:
            future.cancel()
