"""Show the progress of `cxr backfill` and `cxr classify`, and a summary at the end."""

import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta

from rich.bar import Bar
from rich.console import Console, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline.backfill import HISTOGRAM_BINS, Done, Tally
from pipeline.errors import CxrError
from pipeline.names import INBOX, for_terminal
from pipeline.verdict import Status, Verdict, doubt_of

_EVERY = 10.0  # seconds between two lines when the output is not a terminal
_WIDTH = 40  # characters in the longest bar
_COLOURS = {"pneumonia": "yellow", "normal": "cyan", "rejected": "dim", "failed": "red"}
_SIDES: tuple[JustifyMethod, ...] = ("left", "left", "right", "left", "right")
_REASON = 20  # characters; the longest is "age outside training"
_NARROW = 64  # a terminal of fewer characters gets two lines for each X-ray, not columns
_LEFT_TO_RIGHT = "\u200e"  # a mark of no width


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


def tabulate(verdicts: Iterable[Verdict], count: Callable[[], int], console: Console) -> Counter[Status]:
    """Print each verdict as a row under a progress bar, then the totals; return the number of each status.

    `count` finds the number of X-rays in the background.
    """
    labels: Counter[str] = Counter()
    statuses: Counter[Status] = Counter()
    clock = time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        _in_background(lambda: progress.update(task, total=count()))
        for verdict in verdicts:
            if not statuses:
                console.print(_head(console.width))
            statuses[verdict.status] += 1
            labels[verdict.finding.label if verdict.finding else verdict.status] += 1
            console.print(_row(verdict, console.width, console.encoding))
            progress.advance(task)
    if total := statuses.total():
        seconds = time.monotonic() - clock
        found = ", ".join(f"{number:,} {label}" for label, number in labels.most_common())
        words = f"{total:,} X-ray{'' if total == 1 else 's'} in {seconds:.1f} s: {found}"
        console.print(Text(f"\n{words}"), soft_wrap=True)
    return statuses


def _head(width: int) -> RenderableType:
    cells = [Text(word, "bold") for word in ("X-ray", "Verdict", "P", "Reason", "Time")]
    return _cells(width, *cells) if width >= _NARROW else Text("")


def _row(verdict: Verdict, width: int, encoding: str) -> RenderableType:
    finding, doubt, spent = verdict.finding, doubt_of(verdict.warnings), verdict.timing_ms
    label = finding.label if finding else verdict.status
    key = for_terminal(verdict.source.key).encode(encoding, "backslashreplace").decode(encoding)
    name, answer = Text(_isolated(key)), Text(label, _COLOURS.get(label, ""))
    chance = Text(f"{finding.probability:.2f}" if finding and not doubt else "")
    code = verdict.reason.code if verdict.reason else doubt or ""
    why = Text(code.replace("_", " ").replace("xray", "X-ray"))
    said = Text(for_terminal(verdict.reason.message) if verdict.reason else "")
    milliseconds = spent.fetch + spent.decode + spent.infer  # measured where there is a finding
    took = Text(f"{milliseconds:,.0f} ms" if milliseconds else "", "dim")
    lines = Table.grid()
    lines.add_column(overflow="fold")
    if width >= _NARROW:
        lines.add_row(_cells(width, name, answer, chance, why, took))
    else:
        lines.add_row(name)
        lines.add_row(_indented(Text(" ").join(part for part in (answer, chance, why, took) if part)))
    if said:
        lines.add_row(_indented(said))
    return lines


def _indented(words: Text) -> Padding:
    return Padding(words, (0, 0, 0, 2))


def _cells(width: int, *cells: Text) -> Table:
    """Lay one row out in columns of the same width for every row, because rows are printed as they come."""
    fixed = (9, 4, 8)  # the longest label, P, time
    rest = width - sum(fixed) - 4 * 2
    name = max(rest * 3 // 5, rest - _REASON)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for size, side in zip((name, *fixed[:2], rest - name, fixed[2]), _SIDES, strict=True):
        table.add_column(width=size, justify=side, overflow="fold")
    table.add_row(*cells)
    return table


def _isolated(name: str) -> str:
    """Keep a name that is read from right to left from turning the rest of its row around."""
    turns = any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in name)
    return f"{_LEFT_TO_RIGHT}{name}{_LEFT_TO_RIGHT}" if turns else name


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
    """Run `work` in a daemon thread; ignore our errors, which the listing being judged reports as well."""

    def run() -> None:
        try:
            work()
        except CxrError:
            return

    threading.Thread(target=run, name="cxr-count", daemon=True).start()


class _Rate(ProgressColumn):
    """Show images per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s")
