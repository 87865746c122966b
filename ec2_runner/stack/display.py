"""Show the progress of `cxr deploy` and `cxr destroy`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


class Display:
    """Show lines and progress on a console; one that is not a terminal gets only the lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        """Show a line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def at_work(self, what: str) -> Iterator[None]:
        """Show that a step is at work, in a `with` block."""
        self.say(what)
        with self._console.status(what):
            yield

    @contextmanager
    def bytes(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of a transfer; the yielded function takes how many more bytes have arrived."""
        self.say(f"{what} ({total / 1e6:.0f} MB)")
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda count: progress.advance(task, count)
