"""Open an archive for `cxr backfill`: a source and an outbox, each a folder or `s3://bucket/folder`."""

import os
from pathlib import Path

from handlers import wiring
from pipeline.backfill import Backfill
from pipeline.errors import UsageError
from pipeline.names import INBOX, OUTBOX
from pipeline.ports import ArchiveSource, Store
from pipeline.settings import Settings
from pipeline.store.archive import ArchiveStore, Location
from pipeline.store.folder import FolderStore
from pipeline.verdict import Release

_BUCKETS = "s3://"


def open_archive(source: str, outbox: str) -> ArchiveStore:
    """Open the images at one address and the verdicts at another; raise UsageError if that cannot work.

    A folder called `inbox` or `outbox` belongs to a root: it shares its verdicts and locks with `cxr up`.
    """
    of_source, of_outbox = _parts(source), _parts(outbox)
    inside = of_source[1].startswith(of_outbox[1]) or of_outbox[1].startswith(of_source[1])
    if of_source[0] == of_outbox[0] and inside:
        raise UsageError("SOURCE and OUTBOX must not contain each other: name an OUTBOX beside SOURCE")
    return ArchiveStore(_source(*of_source), _outbox(*of_outbox))


def make_backfill(source: str, outbox: str, settings: Settings) -> Backfill:
    """Build a backfill that judges an archive in this process, with the network loaded."""
    judge, threads = wiring.make_judge(open_archive(source, outbox), settings, Release(), upgrades=True)
    return Backfill(judge, threads)


def is_empty(source: str) -> bool:
    """Return whether an address holds nothing to judge; raise UsageError if it does not exist."""
    place = _source(*_parts(source))
    return next(ArchiveStore(place, place).jobs(), None) is None


def is_bucket(address: str) -> bool:
    """Return whether an address is in S3."""
    return address.startswith(_BUCKETS)


def absolute(address: str) -> str:
    """Return the address in a form that does not depend on the current folder."""
    return address if is_bucket(address) else str(Path(address).resolve())


def _parts(address: str) -> tuple[str, str]:
    """Split an address into its bucket (empty for a local folder) and its folder, which ends in a slash."""
    if not address:
        raise UsageError("an address is empty: name a folder or s3://bucket/folder")
    if not is_bucket(address):
        return "", f"{absolute(address)}/".replace("//", "/")
    bucket, _, prefix = address.removeprefix(_BUCKETS).partition("/")
    if not bucket:
        raise UsageError(f"{address} names no bucket: write it as s3://bucket/folder")
    return bucket, prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _source(bucket: str, folder: str) -> Location[ArchiveSource]:
    if bucket:
        store = wiring.open_bucket(bucket)
        if next(iter(store.list(folder)), None) is None:
            raise UsageError(f"{_BUCKETS}{bucket}/{folder}: there are no objects under this address")
        return Location(store, folder)
    path = Path(folder)
    if not os.path.isdir(path):  # noqa: PTH112  False, too, if it may not be read
        raise UsageError(f"{path}: there is no such folder; check the address")
    if path.name == INBOX.rstrip("/"):
        return Location(FolderStore(path.parent, (INBOX,), writable=False), INBOX)
    return Location(FolderStore(path, ("",), writable=False), "")


def _outbox(bucket: str, folder: str) -> Location[Store]:
    if bucket:
        return Location(wiring.open_bucket(bucket), folder)
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be created ({error.strerror}); name another OUTBOX") from error
    if path.name == OUTBOX.rstrip("/"):
        return Location(FolderStore(path.parent, (OUTBOX,)), OUTBOX)
    return Location(FolderStore(path, ("",)), "")
