"""Measure `cxr up` over a root with a million X-rays: `python -m bench.scale.root [FILES]`.

The inbox has folders of 1,000 files of a few bytes each, no two alike; such files are never read while
nothing changes. Their verdicts, rows and the ledger of known files are made in bulk, from one verdict of the
real network, as `cxr up` would have left them; there are no previews. The system's caches are warm. A real
X-ray is dropped before the start and another when the page answers. The page's times are taken as in
bench/page.py, during the first scan and at the end. The last start has no ledger, so that every file has to
be looked at again. Per file it needs 9 kB of disk and two inodes, in TMPDIR.
"""

import hashlib
import http.client
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.images import SAMPLES
from bench.memory import resident_mb
from bench.page import first_byte
from bench.running import served
from model.serve.engine import Engine
from pipeline.intake import row_of
from pipeline.judge import Judge
from pipeline.names import report_id, verdict_key
from pipeline.records import Job
from pipeline.settings import Settings
from pipeline.store.folder import FolderStore
from pipeline.store.ledger import Ledger, ledger_path, packed
from pipeline.verdict import Label, Release, Verdict
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.machines import free_port

_FOLDER = 1_000  # files in one
_FEW = 1_000  # files of the root to compare with
_AT_A_TIME = 10_000
_DEADLINE = 600.0
_LABELS: tuple[Label, ...] = ("pneumonia", "normal", "uncertain")
_ADDRESSES = (
    "/",
    "/?order=triage",
    "/?state=uncertain",
    "/?search=cxr-000500",
    "/?review=unread",
    "/changes?since=0",
)
_ASKED = 50  # requests to each address


@dataclass(frozen=True)
class Start:
    """Hold one start of `cxr up`; seconds since the start of the process, memory in MB."""

    files: int
    answered: float  # the page
    before: float  # verdict of the X-ray dropped before the start
    after: float  # seconds from dropping the other X-ray to its verdict
    resident: tuple[float, ...]  # every 30 s
    p95: dict[str, tuple[float, float]]  # milliseconds, by address: during the first scan, and at the end


def build(root: Path, count: int) -> None:
    """Make a root as `cxr up` would have left it."""
    store, ledger, path = FolderStore(root), Ledger(root), root / ".cxr" / "index.sqlite"
    template = _judged(store)
    with closing(SqliteIndex(path)) as index, closing(ledger), index.filling(), ThreadPoolExecutor() as pool:
        for label in _LABELS:
            index.record(replace(row_of(template, "", ""), key=label, label=label))
        rows = pool.submit(_make_rows, path, count)
        text = template.to_json().decode()
        for number in range(count):
            _make_files(root, number, template, text, ledger)
            if number % _AT_A_TIME == 0:
                ledger.flush()
        rows.result()


def _make_rows(path: Path, count: int) -> None:
    """Copy the rows named by a label, with other names and times, then remove them."""
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
        database.create_function("report_id", 1, report_id, deterministic=True)
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info (rows)") if name != "id"]
        key = f"printf('ward %d/CXR-%06d-PA.jpeg', n / {_FOLDER}, n)"
        moment = "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 'now', '-' || (n % 500000) || ' minutes')"
        made = {
            "key": f"'inbox/' || {key}",
            "name": f"lower({key})",
            "report": f"report_id('inbox/' || {key})",
            "verdict_key": f"'outbox/' || {key} || '.json'",
            "verdict_etag": "printf('%032x', n)",
            "etag": "printf('%032x', n)",
            "started_at": moment,
            "finished_at": moment,
            "change": "n",
        }
        label = " ".join(f"WHEN {number} THEN '{label}'" for number, label in enumerate(_LABELS))
        for first in range(0, count, _AT_A_TIME):
            database.execute(
                "WITH RECURSIVE numbers (n) AS (SELECT ? UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
                f" INSERT INTO rows ({', '.join(columns)})"
                f" SELECT {', '.join(made.get(name, f'model.{name}') for name in columns)}"
                f" FROM numbers JOIN rows AS model ON model.key = CASE n % 3 {label} END",
                (first, min(first + _AT_A_TIME, count) - 1),
            )
        database.execute(f"DELETE FROM rows WHERE key IN {_LABELS}")
        database.execute("UPDATE changes SET last = ?", (count,))


def _judged(store: FolderStore) -> Verdict:
    key = "inbox/template.jpeg"
    store.put(key, _xray(0), None)
    judge = Judge(store, Engine(), Release(), Settings().max_bytes)
    _, verdict = judge.look(Job(key))
    assert verdict is not None
    for name in ("inbox", "outbox"):
        shutil.rmtree(store.root / name)
        (store.root / name).mkdir()
    return verdict


def _make_files(root: Path, number: int, template: Verdict, text: str, ledger: Ledger) -> None:
    key, data = f"inbox/ward {number // _FOLDER}/CXR-{number:06}-PA.jpeg", b"%d" % number
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    verdict = text.replace(template.source.key, key).replace(template.source.etag, etag).encode()
    for name, content in ((key, data), (verdict_key(key), verdict)):
        path = f"{root}/{name}"
        if number % _FOLDER == 0:
            Path(path).parent.mkdir()
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(file, content)
        os.close(file)
    state = os.stat(f"{root}/{key}")  # noqa: PTH116
    ledger.say(key, packed(state), state.st_mtime)
    ledger.end(key, state.st_mtime + 60, is_current=True)


def measure(root: Path, count: int, seconds: float) -> Start:
    """Start `cxr up` over a root, drop two X-rays, request pages, and watch its memory so many seconds."""
    _drop(root, f"before-{time.time_ns()}")
    port, began = free_port(), time.perf_counter()
    command = [sys.executable, "-m", "cxr", "up", "--root", str(root), "--port", str(port)]
    with served(command, port, "/healthz", dict(os.environ), _DEADLINE) as pid:
        answered = time.perf_counter() - began
        second, dropped = f"after-{time.time_ns()}", time.perf_counter()
        _drop(root, second)
        done: dict[str, float] = {}
        while len(done) < 2 and time.perf_counter() - began < _DEADLINE:
            for path in (root / "outbox/ward 0").glob("dropped-*.json"):
                done.setdefault(path.name, time.perf_counter())
            time.sleep(0.02)
        during, resident = _asked(port), []
        while time.perf_counter() - began < seconds:
            time.sleep(min(30, seconds))
            resident.append(resident_mb(pid))
        p95 = {address: (during[address], ms) for address, ms in _asked(port).items()}
    for folder in ("inbox", "outbox"):
        for path in (root / folder / "ward 0").glob("dropped-*"):
            path.unlink()
    after = next(moment for name, moment in done.items() if second in name) - dropped
    before = next(moment for name, moment in done.items() if second not in name) - began
    return Start(count, answered, before, after, tuple(resident), p95)


def _drop(root: Path, name: str) -> None:
    path = root / f"{name}.tmp"
    path.write_bytes(_xray(time.time_ns()))
    path.rename(root / f"inbox/ward 0/dropped-{name}.jpeg")


def _xray(number: int) -> bytes:
    return next(SAMPLES.glob("pneumonia-*.jpeg")).read_bytes() + b"%d" % number


def _asked(port: int) -> dict[str, float]:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
        found = {
            address: sorted(first_byte(client, address) for _ in range(_ASKED)) for address in _ADDRESSES
        }
    return {address: times[int(0.95 * _ASKED)] for address, times in found.items()}


@contextmanager
def _root(count: int) -> Iterator[Path]:
    with TemporaryDirectory(prefix="cxr-bench-") as folder:
        build(Path(folder), count)
        yield Path(folder)


def lines(what: str, seen: Start) -> list[str]:
    """Return the lines to print."""
    resident = ", ".join(f"{mb:.0f}" for mb in seen.resident)
    return [
        f"{seen.files:,} files, {what}",
        f"  page answers after {seen.answered:.1f} s",
        f"  verdict of an X-ray dropped before the start: after {seen.before:.1f} s",
        f"  verdict of an X-ray dropped when the page answers: {seen.after:.2f} s later",
        f"  memory of `cxr up`, every 30 s: {resident} MB",
        *(
            f"  {address:24} p95 {during:5.1f} ms at the start, {ms:5.1f} ms later"
            for address, (during, ms) in seen.p95.items()
        ),
    ]


def main(count: int, seconds: float) -> None:
    """Measure and print."""
    for number in (_FEW, count):
        with _root(number) as root:
            _say(lines("nothing changed", measure(root, number, seconds)))
            if number == count:
                ledger_path(root).unlink()
                _say(lines("without a ledger", measure(root, number, seconds)))


def _say(said: list[str]) -> None:
    sys.stdout.write("\n".join(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    given = [int(one) for one in sys.argv[1:]]
    main(given[0] if given else 1_000_000, given[1] if len(given) > 1 else 120)
