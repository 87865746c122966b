"""Measure the page over 100,000 X-rays: `python -m bench.page [ROWS]`.

The page is served over a worklist of that many rows, with as many reviews; one client requests each address
in turn, on one connection. The time is until the first byte of the answer, measured by the client. Then all
rows are exported as CSV, with the highest memory of the page's process before and after.
"""

import http.client
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from model.evaluate.card import shipped_card
from pipeline.records import Answer, Reading, Reviewed, ReviewState, Row
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import Cursor, Page, View, Worklist

_ASKED = 200  # requests to each address
_DAYS = 400.0  # range of the verdicts' dates, recent ones more frequent
_REVIEWS: dict[ReviewState, tuple[Answer, ...]] = {  # by one reader or two
    "unread": (),
    "agreed": ("agree", "agree"),
    "disagreed": ("disagree",),
    "unsure": ("unsure",),
    "mixed": ("agree", "disagree"),
}
_REVIEWED = (30, 45, 10, 5, 10)  # shares of them in percent: about one review for each row
_SHARES = {"pneumonia": 0.45, "normal": 0.4, "uncertain": 0.08, "rejected": 0.05, "failed": 0.02}


@dataclass(frozen=True)
class Asked:
    """Hold one kind of address, with milliseconds to the first byte."""

    name: str
    median: float
    p95: float
    worst: float


@dataclass(frozen=True)
class Exported:
    """Hold the figures of a CSV of all rows; the memory is the highest that the page's process ever had."""

    megabytes: float
    seconds: float
    peak_before_mb: float
    peak_after_mb: float


@dataclass(frozen=True)
class Pages:
    """Hold the figures of a page over so many rows."""

    rows: int
    megabytes: float
    seconds: float  # to write them
    asked: list[Asked]
    exported: Exported


def measure(count: int) -> Pages:
    """Fill a worklist, serve it and send requests."""
    with TemporaryDirectory() as root:
        path = Path(root) / ".cxr" / "index.sqlite"
        with closing(SqliteIndex(path)) as index:
            began = time.perf_counter()
            fill(index, count)
            filled = time.perf_counter() - began
            addresses = _addresses(Worklist(index), count)
        size, asked = path.stat().st_size / 1e6, []
        with (
            _served(Path(root)) as (port, pid),
            closing(http.client.HTTPConnection("127.0.0.1", port)) as client,
        ):
            for name, address in addresses.items():
                times = sorted(first_byte(client, address) for _ in range(_ASKED))
                p95 = times[int(0.95 * len(times))]
                asked.append(Asked(name, statistics.median(times), p95, times[-1]))
            exported = _export(client, pid, count)
    return Pages(count, size, filled, asked, exported)


def main(count: int) -> None:
    """Measure and print."""
    seen = measure(count)
    say = [f"{seen.rows} rows ({seen.megabytes:.0f} MB, written in {seen.seconds:.0f} s)"]
    say += [
        f"{one.name:34} median {one.median:5.1f}   p95 {one.p95:5.1f}   worst {one.worst:5.1f}"
        for one in seen.asked
    ]
    csv = seen.exported
    say.append(
        f"CSV of all rows: {csv.megabytes:.1f} MB in {csv.seconds:.1f} s; highest memory of the page"
        f" {csv.peak_before_mb:.0f} MB before, {csv.peak_after_mb:.0f} MB after"
    )
    sys.stdout.write("\n".join(say) + "\n")


def fill(index: SqliteIndex, count: int) -> None:
    """Write rows like a department's; the same in each run, except their dates."""
    chance, now, network = random.Random(7), datetime.now(UTC), shipped_card().sha256
    for number in range(count):
        state = chance.choices(list(_SHARES), list(_SHARES.values()))[0]
        label = state if state in ("pneumonia", "normal", "uncertain") else None
        moment = now - timedelta(days=_DAYS * chance.random() ** 2)
        name = f"ward {chance.randrange(40)}/CXR-{number:06}-{chance.choice(('PA', 'AP'))}.jpeg"
        index.record(
            Row(
                f"inbox/{name}",
                status="classified" if label else state,  # type: ignore[arg-type]
                label=label,  # type: ignore[arg-type]
                probability={"pneumonia": 0.97, "normal": 0.03, "uncertain": 0.5}.get(state),
                normal_below=0.124 if label else None,
                pneumonia_above=0.863 if label else None,
                reason=None if label else "unreadable",
                warnings=("age_unknown",) if label else (),
                etag=f"{number:032x}",
                verdict_key=f"outbox/{name}.json",
                verdict_etag=f"{number:032x}",
                preview_key=f"outbox/.previews/{number:032x}/{number:032x}.jpg" if label else None,
                started_at=moment - timedelta(milliseconds=40),
                finished_at=moment,
                model=network,
                typicality=round(max(chance.gauss(0.6, 0.15), 0.1), 4) if label else None,
                aspect=round(chance.gauss(1.4, 0.3), 3),
                brightness=round(min(max(chance.gauss(130, 20), 0), 255), 1),
                contrast=round(max(chance.gauss(52, 10), 0), 1),
            )
        )
        said = chance.choices(list(_REVIEWS), _REVIEWED)[0]
        if label and said != "unread":
            readers = zip(("Dr. Ada Example", "Dr. Bob Example"), _REVIEWS[said], strict=False)
            answers = tuple(Reading(user, answer, "unsure", moment) for user, answer in readers)
            index.review(f"inbox/{name}", Reviewed(f"{number:032x}", said, answers, len(answers)))


def _addresses(listed: Worklist, count: int) -> dict[str, str]:
    deep = next(page for number, page in enumerate(_pages(listed)) if number == count // 50 * 4 // 5).older
    rare = f"{count // 2:06}"
    return {
        "worklist": "/",
        "triage": "/?order=triage",
        "one state": "/?state=rejected",
        f"deep page ({count * 4 // 5:,} rows down)": f"/?after={deep}",
        "search, one match": f"/?search={rare}",
        "search, every row matches": "/?search=cxr",
        "search, one ward of 40": f"/?search={quote('ward 17/')}",
        "search, triage": "/?search=-pa.jpeg&order=triage",
        "search, two characters": "/?search=pa",
        "search, two characters, no match": "/?search=zz",
        "search, nothing matches": "/?search=nothing",
        "search, common words, no match": "/?search=ward+jpeg+cxr+qq",
        "one week": f"/?from={_day(14)}&to={_day(8)}",
        "one week, triage, one state": f"/?from={_day(14)}&to={_day(8)}&state=pneumonia&order=triage",
        "unread, one week": f"/?from={_day(14)}&to={_day(8)}&review=unread",
        "unread": "/?review=unread",
        "disagreed, triage": "/?review=disagreed&review=mixed&order=triage",
        "unread, one ward of 40": f"/?review=unread&search={quote('ward 17/')}",
        "read, every row matches": "/?review=agreed&review=disagreed&review=unsure&search=cxr",
        "disagreed, deep page": f"/?review=disagreed&after={_deep(listed, count)}",
        "is anything new": "/changes?since=0",
        "statistics, 30 days": "/statistics",
        "statistics, 12 months": "/statistics?period=12m",
        "figures for Prometheus": "/metrics",
        "API, 50 rows": "/api/verdicts",
    }


def _day(ago: int) -> str:
    return (datetime.now(UTC) - timedelta(days=ago)).date().isoformat()


def _deep(listed: Worklist, count: int) -> Cursor | None:
    """Return a place far down among the X-rays that readers disagree with."""
    view, place, left = View(reviews=frozenset({"disagreed"})), None, count // 10 * 4 // 5
    while left > 0:
        place, left = listed.page(view, min(left, 500), after=place).older or place, left - 500
    return place


def _pages(listed: Worklist) -> Iterator[Page]:
    page = listed.page(View(), 50)
    while True:
        yield page
        page = listed.page(View(), 50, after=page.older)


@contextmanager
def _served(root: Path) -> Iterator[tuple[int, int]]:
    """Serve the page; yield its port and the id of its process."""
    (root / "inbox").mkdir(exist_ok=True)
    command = [sys.executable, "-c", _SERVE, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()


# Only the page, as `cxr up` serves it: the watcher would mark rows without a file as deleted.
_SERVE = """
import json, sys
from pathlib import Path
from waitress import create_server
from model import CARD
from pipeline.store.folder import FolderStore
from pipeline.worklist.sqlite import SqliteIndex
from web.app import create_page
root = Path(sys.argv[1])
index = SqliteIndex(root / ".cxr" / "index.sqlite")
page = create_page(FolderStore(root), index, 10**6, json.loads(CARD.read_bytes()))
server = create_server(page, host="127.0.0.1", port=0, threads=8, ident=None)
print(server.effective_port, flush=True)
server.run()
"""


def _export(client: http.client.HTTPConnection, pid: int, count: int) -> Exported:
    """Read the CSV of all rows, piece by piece."""
    before, began, size, lines = _peak(pid), time.perf_counter(), 0, 0
    client.request("GET", "/api/verdicts.csv")
    answer = client.getresponse()
    while piece := answer.read(1 << 16):
        size, lines = size + len(piece), lines + piece.count(b"\n")
    seconds = time.perf_counter() - began
    assert (answer.status, lines) == (200, count + 1), (answer.status, lines)
    return Exported(size / 1e6, seconds, before, _peak(pid))


def _peak(pid: int) -> float:
    """Return the highest resident memory of a process so far, in MB, as Linux counts it."""
    status = Path("/proc", str(pid), "status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def first_byte(client: http.client.HTTPConnection, address: str) -> float:
    """Return the milliseconds from the request to the answer's first byte."""
    began = time.perf_counter()
    client.request("GET", address)
    answer = client.getresponse()
    taken = (time.perf_counter() - began) * 1000
    answer.read()
    assert answer.status in (200, 204), answer.status
    return taken


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
