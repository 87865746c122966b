"""Classify files and objects of buckets, without inbox and outbox: `cxr classify`."""

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline.errors import InputRejected, ObjectTooLarge, UsageError
from pipeline.judge import examine, too_large
from pipeline.names import for_terminal, is_unfinished, printable
from pipeline.ports import InferenceEngine, Store
from pipeline.records import ObjectInfo
from pipeline.store.walk import keys
from pipeline.verdict import Release, Source, Verdict, doubt_of

STANDARD_INPUT = "-"
_BUCKETS = "s3://"
_FETCHING = 4  # threads per image judged at a time: they read, or wait for a slow image
_AHEAD = 64  # verdicts that may wait for that of a slow image
OpenStore = Callable[[str], Store]


Reader = Callable[[int], tuple[Source, bytes | InputRejected]]  # takes the maximum number of bytes


def verdicts(
    names: Iterable[str],
    engine: InferenceEngine,
    release: Release,
    max_bytes: int,
    threads: int,
    show: Callable[[Verdict, bytes], None] | None = None,
    open_store: OpenStore | None = None,
) -> Iterator[Verdict]:
    """Yield the verdicts of files, folders, objects under `s3://bucket/prefix` and standard input (`-`).

    They come in order, and memory is bounded. Of a folder, all files under it are judged. `show` is called
    with each classified verdict and its preview, in one of the threads; `open_store` opens a bucket. Raises
    UsageError for a name that does not exist. The engine is closed when the caller stops iterating.
    """
    with ThreadPoolExecutor(_FETCHING * threads) as pool:
        readers = _readers(names, open_store)
        running: deque[Future[Verdict]] = deque()
        try:
            while True:
                for read in islice(readers, _AHEAD - len(running)):
                    running.append(pool.submit(_verdict, read, engine, release, max_bytes, show))
                if not running:
                    return
                yield running.popleft().result()
        except BaseException:
            engine.close()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def line(verdict: Verdict) -> str:
    """Format a verdict as one line for a person."""
    key = for_terminal(verdict.source.key)
    if verdict.finding:
        doubt = (doubt_of(verdict.warnings) or "").replace("_", " ")
        why = doubt or f"P(pneumonia) {verdict.finding.probability:.2f}"
        return f"{key}: {verdict.finding.label}, {why}"
    assert verdict.reason is not None
    return f"{key}: {verdict.status}, {verdict.reason.code}: {verdict.reason.message}"


def count_inputs(names: Iterable[str], open_store: OpenStore | None = None) -> int:
    """Return the number of verdicts that `verdicts` yields for these names, without reading any file."""
    return sum(1 for _ in _readers(names, open_store))


def _readers(names: Iterable[str], open_store: OpenStore | None) -> Iterator[Reader]:
    for name in names:
        if not name:
            raise UsageError("a path is empty: name a file or a folder, or . for the folder you are in")
        path = Path(name)
        if name.startswith(_BUCKETS):
            yield from _in_bucket(name, open_store)
        elif _is(path.is_dir):
            files = (path / key for key in sorted(keys(path, "", strict=True)) if not is_unfinished(key))
            yield from (partial(_read_file, file) for file in files if _is(file.is_file))
        elif name == STANDARD_INPUT or _is(path.exists):
            yield partial(_read_file, path)
        else:
            raise UsageError(f"{name}: there is no such file")


def _is(look: Callable[[], bool]) -> bool:
    """Return the answer of a file system check; true where it is refused, so that reading says why."""
    try:
        return look()
    except OSError:
        return True


def _in_bucket(address: str, open_store: OpenStore | None) -> Iterator[Reader]:
    bucket, _, prefix = address.removeprefix(_BUCKETS).partition("/")
    if open_store is None or not bucket:
        raise UsageError(f"{address}: name an object or a folder, as s3://bucket/folder/")
    store, is_empty = open_store(bucket), True
    for info in store.list(prefix):
        if info.key == prefix or prefix.endswith("/") or not prefix:
            is_empty = False
            if not info.key.endswith("/") and not is_unfinished(info.key.removeprefix(prefix)):
                yield partial(_read_object, store, info)
    if is_empty:
        raise UsageError(f"{address}: there is no such object; a folder's address ends with a slash")


def _verdict(
    read: Reader,
    engine: InferenceEngine,
    release: Release,
    max_bytes: int,
    show: Callable[[Verdict, bytes], None] | None,
) -> Verdict:
    started = datetime.now(UTC)
    source, data = read(max_bytes)
    verdict, preview = examine(data, source, engine, release, started)
    if show and preview:
        show(verdict, preview)
    return verdict


def _read_object(store: Store, info: ObjectInfo, max_bytes: int) -> tuple[Source, bytes | InputRejected]:
    source = Source(bucket=store.bucket, key=printable(info.key), etag=info.etag, size=info.size)
    try:
        found = store.get(info.key, max_bytes)
    except ObjectTooLarge:
        return source, too_large(max_bytes)
    if found is None:
        return source, InputRejected(
            "unreadable", "The object was deleted while the bucket was read. Try again."
        )
    return source.model_copy(update={"etag": found[0].etag, "size": found[0].size}), found[1]


def _read_file(path: Path, max_bytes: int) -> tuple[Source, bytes | InputRejected]:
    data = _bytes_of(path, max_bytes)
    if isinstance(data, bytes):
        etag, size = hashlib.md5(data, usedforsecurity=False).hexdigest(), len(data)
    else:
        etag, size = "", _size(path)
    return Source(bucket="", key=printable(str(path)), etag=etag, size=size), data


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _bytes_of(path: Path, max_bytes: int) -> bytes | InputRejected:
    try:
        if str(path) == STANDARD_INPUT:
            data = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with path.open("rb") as file:
                data = file.read(max_bytes + 1)
    except OSError as error:
        return InputRejected(
            "unreadable", f"The file cannot be read: {error.strerror}. Check its permissions."
        )
    return data if len(data) <= max_bytes else too_large(max_bytes)
