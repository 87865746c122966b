"""Present an archive, with images in one place and verdicts in another, to a Judge as one store."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pipeline.errors import ObjectTooLarge, ObjectUnreadable
from pipeline.names import INBOX, OUTBOX, is_unfinished
from pipeline.ports import ArchiveSource, Store
from pipeline.records import Job, ObjectInfo

Kind = TypeVar("Kind", bound=Store, covariant=True)


@dataclass(frozen=True)
class Location(Generic[Kind]):
    """Locate an inbox or an outbox under a prefix of a store."""

    store: Kind
    prefix: str  # empty, or ends with a slash


class ArchiveStore:
    """Join an `inbox/` in one place and an `outbox/` in another; implements `ports.ArchiveSource`."""

    def __init__(self, source: Location[ArchiveSource], outbox: Location[Store]) -> None:
        self._source, self._outbox = source, outbox
        self.bucket = source.store.bucket

    def jobs(self, prefix: str = INBOX) -> Iterator[Job]:
        """Yield the jobs, see `ports.ArchiveSource`: no hidden, unfinished or system files.

        The folder that holds the archive may have any name.
        """
        where, key = self._source, prefix.removeprefix(INBOX)
        for job in where.store.jobs(where.prefix + key):
            inbox_key = INBOX + job.key.removeprefix(where.prefix)
            if not is_unfinished(inbox_key):
                yield replace(job, key=inbox_key)

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's description, or None."""
        store, name = self._of(key)
        info = store.head(name)
        return replace(info, key=key) if info else None

    def get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """Return the object with its bytes, see `ports.Store`."""
        store, name = self._of(key)
        try:
            found = store.get(name, limit)
        except (ObjectTooLarge, ObjectUnreadable) as error:
            error.info = replace(error.info, key=key)
            raise
        return (replace(found[0], key=key), found[1]) if found else None

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        """Write on condition, see `ports.Store`."""
        store, name = self._of(key)
        return store.put(name, data, expected)

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""
        store, name = self._of(key)
        store.delete(name)

    def purge(self, key: str) -> int:
        """Remove an object for good, see `ports.Store`."""
        store, name = self._of(key)
        return store.purge(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects under a prefix."""
        store, name = self._of(prefix)
        for info in store.list(name):
            yield replace(info, key=prefix + info.key.removeprefix(name))

    def _of(self, key: str) -> tuple[Store, str]:
        if key.startswith(OUTBOX):
            return self._outbox.store, self._outbox.prefix + key.removeprefix(OUTBOX)
        return self._source.store, self._source.prefix + key.removeprefix(INBOX)
