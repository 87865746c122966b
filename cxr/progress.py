"""Show the progress of `cxr backfill`, and a summary at the end."""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta

from rich.bar import Bar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline.backfill import HISTOGRAM_BINS, Done, Tally
from pipeline.errors import StoreError
from pipeline.names import INBOX, for_terminal

_EVERY = 10.0  # seconds between two lines when the output is not a terminal
_WIDTH = 40  # characters in the longest bar


def follow(answers: Iterable[Done], count: Callable[[], int], console: Console) -> Tally:
    """Tally the answers as they arrive and show progress: a bar on a terminal, else a line every few seconds.

    `count` finds the number of images in the background. Raises StoreError if the store cannot be reached.
    """
    tally, due = Tally(), time.monotonic() + _EVERY
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        _in_background(lambda: progress.update(task, total=count()))
        for done in answers:
            if done.is_bad:
                line = for_terminal(f"{done.key.removeprefix(INBOX)}: {done.result}: {done.detail}")
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            tally.add(done)
            progress.advance(task)
            if not console.is_terminal and time.monotonic() >= due:
                console.print(_line(progress.tasks[0], tally), highlight=False, soft_wrap=True)
                due = time.monotonic() + _EVERY
    return tally


def show_summary(tally: Tally, seconds: float, console: Console) -> None:
    """Print the totals, a table of labels and reasons, and a histogram of the probabilities."""
    rate = f", {tally.judged / seconds:.1f}/s" if tally.judged else ""
    there, gone = tally.results["current"], tally.results["gone"]
    parts = [f"{tally.judged:,} judged{rate}", f"{there:,} already had a verdict", f"{tally.bad:,} failed"]
    if gone:
        parts.append(f"{gone:,} missing (a link, or removed in the meantime)")
    console.print(f"{tally.total:,} images: {'; '.join(parts)}", highlight=False, soft_wrap=True)
    if tally.labels or tally.reasons:
        console.print(_counts(tally))
    if any(tally.histogram):
        console.print(_histogram(tally))


def _counts(tally: Tally) -> Table:
    table = Table("", "images", box=None, show_header=False)
    reasons = [(f"rejected: {code}", number) for code, number in tally.reasons.most_common()]
    for name, number in (*tally.labels.most_common(), *reasons):
        table.add_row(name, Text(f"{number:,}", justify="right"))
    return table


def _histogram(tally: Tally) -> Table:
    table, largest = (
        Table(title="P(pneumonia)", box=None, show_header=False, title_justify="left"),
        max(tally.histogram),
    )
    for step, number in enumerate(tally.histogram):
        edges = f"{step / HISTOGRAM_BINS:.1f} to {(step + 1) / HISTOGRAM_BINS:.1f}"
        table.add_row(edges, Text(f"{number:,}", justify="right"), Bar(largest, 0, number, width=_WIDTH))
    return table


def _line(task: Task, tally: Tally) -> str:
    of = f" of {task.total:,.0f}" if task.total is not None else ""
    left = task.time_remaining
    end = f", {timedelta(seconds=round(left))} left" if left is not None else ""
    return f"{tally.total:,}{of}, {task.speed or 0:.1f}/s, {tally.bad:,} failed{end}"


def _in_background(work: Callable[[], None]) -> None:
    """Run `work` in a daemon thread; ignore store errors, which the listing being judged reports as well."""

    def run() -> None:
        try:
            work()
        except StoreError:
            return

    threading.Thread(target=run, name="cxr-count", daemon=True).start()


class _Rate(ProgressColumn):
    """Show images per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s")
