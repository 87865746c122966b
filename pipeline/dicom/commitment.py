"""Take reports of storage commitment: a PACS says that it keeps what it was sent (PS3.4, annex J).

A transaction's UID is a secret number and a digest of the UIDs of the objects. So a report can be checked
without a list of them, and nobody who was not asked can confirm anything.
"""

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.dicom.arrivals import DONE, Reply
from pipeline.errors import InputRejected, place_of

log = logging.getLogger(__name__)

COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model SOP Class
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # its only instance
ALL_KEPT = 1  # type of a report that names no failure
_SECRET_BYTES = _DIGEST_BYTES = 8
_MOST_BYTES = 1 << 18  # of a report
_UNREADABLE, _DEFECT = Reply(0x0110, "the report cannot be read"), Reply(0x0110, "an error; see the log")


@dataclass(frozen=True)
class CommitmentReport:
    """Hold what a report says: of which transaction, which objects are kept, and which are not."""

    transaction: str
    kept: tuple[str, ...]
    failed: tuple[str, ...]


Confirm = Callable[[str, str | None], None]  # takes a transaction, and why it failed or None
ReadReport = Callable[[memoryview, str], CommitmentReport]  # of a data set in a transfer syntax


def new_transaction(instances: Iterable[str]) -> str:
    """Return the UID of a new transaction for these objects."""
    number = secrets.token_bytes(_SECRET_BYTES) + _digest(instances)
    return f"2.25.{int.from_bytes(number, 'big')}"


class CommitmentReports:
    """Read reports, and tell what they confirm."""

    def __init__(self, read: ReadReport, confirm: Confirm) -> None:
        self._read, self._confirm = read, confirm

    def begin(self, event: int | None, syntax: str) -> "ReportArrival":
        """Begin to receive a report of this type."""
        return ReportArrival(self, event, syntax)

    def take(self, data: bytes, syntax: str, event: int | None) -> Reply:
        """Take a whole report; return the answer to its sender."""
        if len(data) > _MOST_BYTES:
            return _UNREADABLE
        try:
            report = self._read(memoryview(data), syntax)
            self._confirm(report.transaction, _why_not(report, event))
        except InputRejected:
            log.warning("a report of storage commitment cannot be read")
            return _UNREADABLE
        except Exception as error:  # noqa: BLE001  its sender gets an answer, and reports again
            log.error("a report of storage commitment was not taken: %s", place_of(error))
            return _DEFECT
        log.info("storage commitment was reported for %d objects", len(report.kept))
        return DONE


class ReportArrival:
    """Receive one report."""

    def __init__(self, reports: CommitmentReports, event: int | None, syntax: str) -> None:
        self._reports, self._event, self._syntax = reports, event, syntax
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        """Append a part; what is too long is thrown away."""
        if len(self._data) <= _MOST_BYTES:
            self._data += data

    def finish(self) -> Reply:
        """Take the report; return the answer to its sender."""
        return self._reports.take(bytes(self._data), self._syntax, self._event)

    def drop(self) -> None:
        """Do nothing: a report leaves no trace."""


def _why_not(report: CommitmentReport, event: int | None) -> str | None:
    """Return why a report does not confirm its transaction; None where it does."""
    if report.failed or event != ALL_KEPT:
        return f"it did not keep {len(report.failed) or 'some'} of the objects"
    _, _, number = report.transaction.rpartition(".")
    expected = (int(number) if number.isdigit() else 0) & ((1 << 8 * _DIGEST_BYTES) - 1)
    if int.from_bytes(_digest(report.kept), "big") != expected:
        return "it confirmed other objects than it was sent"
    return None


def _digest(instances: Iterable[str]) -> bytes:
    return hashlib.sha256("\n".join(sorted(set(instances))).encode()).digest()[:_DIGEST_BYTES]
