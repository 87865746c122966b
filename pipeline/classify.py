"""Files, without inbox and outbox: `cxr classify`."""

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from pipeline.errors import InputRejected, UsageError
from pipeline.judge import examine, too_large
from pipeline.names import printable
from pipeline.ports import Engine
from pipeline.verdict import Release, Source, Verdict

STANDARD_INPUT = Path("-")


def verdicts(
    paths: Iterable[Path],
    engine: Engine,
    release: Release,
    max_bytes: int,
    threads: int,
    show: Callable[[Verdict, bytes], None] | None = None,
) -> Iterator[Verdict]:
    """The verdicts of files, of all files under folders, and of
    standard input (`-`), in order; memory is bounded.

    `show` is called with each classified verdict and its preview, in one of the threads. UsageError for a
    path that is not there.
    """
    with ThreadPoolExecutor(threads) as pool:
        files = _files(paths)
        running: deque[Future[Verdict]] = deque()
        while True:
            for path in islice(files, 2 * threads - len(running)):
                running.append(pool.submit(_verdict, path, engine, release, max_bytes, show))
            if not running:
                return
            yield running.popleft().result()


def line(verdict: Verdict) -> str:
    """A verdict for a person's eyes."""
    if verdict.finding:
        return (
            f"{verdict.source.key}: {verdict.finding.label}, P(pneumonia) {verdict.finding.probability:.2f}"
        )
    assert verdict.reason is not None
    return f"{verdict.source.key}: {verdict.status}, {verdict.reason.code}: {verdict.reason.message}"


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (
                file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")
            )
        elif path == STANDARD_INPUT or path.exists():
            yield path
        else:
            raise UsageError(f"{path}: there is no such file")


def _verdict(
    path: Path,
    engine: Engine,
    release: Release,
    max_bytes: int,
    show: Callable[[Verdict, bytes], None] | None,
) -> Verdict:
    started = datetime.now(UTC)
    data = _read(path, max_bytes)
    if isinstance(data, bytes):
        etag, size = hashlib.md5(data, usedforsecurity=False).hexdigest(), len(data)
    else:
        etag, size = "", path.stat().st_size if path.is_file() else 0
    source = Source(bucket="", key=printable(str(path)), etag=etag, size=size)
    verdict, preview = examine(data, source, engine, release, started)
    if show and preview:
        show(verdict, preview)
    return verdict


def _read(path: Path, max_bytes: int) -> bytes | InputRejected:
    try:
        if path == STANDARD_INPUT:
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
    except OSError as error:
        return InputRejected(
            "unreadable", f"The file cannot be read: {error.strerror}. Check its permissions."
        )
    return data if len(data) <= max_bytes else too_large(max_bytes)
