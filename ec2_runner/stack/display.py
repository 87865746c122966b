"""What `cxr deploy` and `cxr destroy` show while they work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


class Display:
    """Lines and progress on a console; one that is no terminal gets the lines alone."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        """Show a line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def at_work(self, what: str) -> Iterator[None]:
        """Show that something takes its time, meanwhile."""
        self.say(what)
        with self._console.status(what):
            yield

    @contextmanager
    def bytes(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show bytes on their way; the function that is given takes how many more have arrived."""
        self.say(f"{what} ({total / 1e6:.0f} MB)")
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda count: progress.advance(task, count)
