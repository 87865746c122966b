"""Play S3 and SQS around the handlers in local mode: the same functions, the same events."""

import heapq
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import dead_letter, ingest, record, telemetry
from pipeline.errors import IngestFailed, StoreError, place_of
from pipeline.events import Event, s3_event, sqs_event
from pipeline.intake import Ports
from pipeline.judge import read_verdict
from pipeline.names import printable, verdict_key
from pipeline.records import Job, Operations, QueueStatus
from pipeline.running.background import Background
from pipeline.running.service import Service

Ended = Callable[[str, float, bool], None]  # takes a key, when its delivery began, and whether it is current

log = logging.getLogger(__name__)

_PAUSES = (0.5, 2.0)  # seconds before the second and the third delivery, like SQS's visibility timeout
# Seconds before a delivery that store, index or host prevented is tried again: at first, and at most.
_PAUSE_AFTER_ERROR, _LONGEST_PAUSE = 1.0, 10.0
_WITH_VERDICT = (
    "classified",
    "rejected",
    "given_up",
)  # results that wrote a verdict, of which S3 would send an event
_LANES = 8  # deliveries at a time; most of them wait for their turn at the engine
_ROOM = 10_000  # hints; above, no file is taken that can wait
_STOP_SECONDS = 3.0  # to wait for running deliveries when the queue stops


class LocalContext(LambdaContext):
    """Provide the part of Lambda's context that the handlers use."""

    def __init__(self) -> None:
        self._function_name = "local"
        self._aws_request_id = str(uuid.uuid4())

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        """Return a long time: nothing ends a function here."""
        return 3_600_000


@dataclass(frozen=True)
class Delivered:
    """Hold the outcome of an event: key and result of each record, and why others were ignored."""

    outcomes: list[dict[str, str]]
    ignored: list[str]


def deliver(event: Event) -> Delivered:
    """Deliver an event until its records are done; after the third failure, deliver it to the dead letters.

    Written verdicts are passed to `record`, as S3 would do. Raises IngestFailed if not even a `failed`
    verdict could be written.
    """
    outcomes: dict[str, str] = {}
    ignored: list[str] = []
    for pause in (*_PAUSES, None):
        try:
            answer = ingest.handler(event, LocalContext())
            latest, ignored = {item["key"]: item["result"] for item in answer["outcomes"]}, answer["ignored"]
        except IngestFailed as error:
            latest = {outcome.key: outcome.result for outcome in error.outcomes}
        _record({"key": key, "result": result} for key, result in latest.items())
        outcomes |= {key: result for key, result in latest.items() if outcomes.get(key) in (None, "failed")}
        if "failed" not in latest.values():
            break
        if pause:
            time.sleep(pause)
    else:
        given_up = dead_letter.handler(event, LocalContext())["outcomes"]
        _record(given_up)
        outcomes |= {item["key"]: item["result"] for item in given_up if outcomes[item["key"]] == "failed"}
    return Delivered([{"key": key, "result": result} for key, result in outcomes.items()], ignored)


def _record(outcomes: Iterable[Mapping[str, str]]) -> None:
    keys = [verdict_key(item["key"]) for item in outcomes if item["result"] in _WITH_VERDICT]
    if keys:
        record.handler(s3_event("local", keys), LocalContext())


@dataclass(frozen=True)
class _Hint:
    removed: bool
    since: datetime
    tries: int = 0  # deliveries that failed because of the image
    errors: int = 0  # deliveries in a row that the store, the index or the host prevented


class LocalQueue:
    """Play SQS: accept hints at any time and deliver each to `ingest` in one of a few threads.

    A slow image, or one that is tried again later, does not delay the others. A hint that could neither be
    delivered nor given up (a full disk, for example) stays in the queue.
    """

    def __init__(
        self, ports: Ports, background: Background | None = None, ended: Ended = lambda *_: None
    ) -> None:
        """Start to deliver; `background` watches the threads.

        `ended` is told of each delivery that no other follows, unless its object was gone.
        """
        self._ports, self._background, self._ended = ports, background or Background(), ended
        self._hints: dict[str, _Hint] = {}
        self._due: list[tuple[float, int, str]] = []  # a heap of (when on the monotonic clock, number, key)
        self._number = count()
        self._backlog: deque[str] = deque()  # keys that wait until nothing else is due
        self._at_work: dict[str, _Hint] = {}
        self._changed = threading.Condition()
        self._untold_until = 0.0  # on the monotonic clock: new files are not noted in the worklist before
        telemetry.logger()  # created here, before several threads ask for it
        for lane in range(_LANES):
            self._background.start(f"queue {lane + 1}", self._deliver_all)

    def hint(self, key: str, removed: bool) -> None:
        """Queue a hint that a key changed; the worklist shows a new key as waiting at once."""
        if not removed and time.monotonic() >= self._untold_until:
            self._tell(printable(key))
        self._queue(key, _Hint(removed, datetime.now(UTC)))

    def offer(self, key: str, removed: bool) -> bool:
        """Queue a hint behind all others, unless it is queued; return False when there is no room."""
        with self._changed:
            queued = self._hints.get(key)
            if queued and queued.removed == removed:
                return True
            if len(self._hints) >= _ROOM:
                return False
        if not removed and time.monotonic() >= self._untold_until:
            self._tell(printable(key))
        with self._changed:
            self._hints[key] = _Hint(removed, datetime.now(UTC))
            self._backlog.append(key)
            self._changed.notify()
        return True

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        """Queue these jobs again, to be delivered after `delay` seconds; see `ports.Queue`."""
        for job in jobs:
            self._queue(job.key, _Hint(False, job.since or datetime.now(UTC), job.tries), delay)

    def has_later(self, job: Job) -> bool:
        """Return False: this queue holds each key once."""
        return False

    def hasten(self, receipts: Mapping[str, float]) -> None:
        """Do nothing: this queue brings each hint again by itself, and its messages have no receipts."""

    def oldest_sent(self, now: datetime) -> None:
        """Return None: this queue holds each key once, so that nothing has to be kept from it."""

    def status(self) -> QueueStatus:
        """Return how many hints are left, and since when the oldest waits."""
        with self._changed:
            left = (self._at_work | self._hints).values()
            return QueueStatus(len(left), min((hint.since for hint in left), default=None))

    def stop(self) -> None:
        """Wait a short time for running deliveries, then stop.

        Keys that are still queued are found again at the next start.
        """
        with self._changed:
            self._background.stopping.set()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._at_work, _STOP_SECONDS)
        self._ports.host.abandon()
        self._background.stop()

    def _tell(self, row: str) -> None:
        """Note a new file in the worklist; pause after a failure, so that judging does not wait for it."""
        try:
            if self._ports.index.get(row) is None:
                self._ports.index.wait([row], datetime.now(UTC))
        except StoreError as error:
            log.warning("new files do not appear in the worklist yet: %s", error)
            self._untold_until = time.monotonic() + _LONGEST_PAUSE

    def _queue(self, key: str, hint: _Hint, delay: float = 0) -> None:
        with self._changed:
            self._hints[key] = hint
            heapq.heappush(self._due, (time.monotonic() + delay, next(self._number), key))
            self._changed.notify()

    def _deliver_all(self) -> None:
        while taken := self._take():
            key, hint = taken
            began, is_current = time.time(), None
            try:
                again, pause, is_current = self._deliver(key, hint)
            except Exception as error:  # noqa: BLE001  the hint must not be lost
                log.error("an event could not be delivered; it will be tried again: %s", place_of(error))
                again, pause = _after_error(hint)
            with self._changed:
                del self._at_work[key]
                if key not in self._hints:  # otherwise a newer hint replaces it
                    if again:
                        self._queue(key, again, pause)
                    elif is_current is not None:
                        self._ended(key, began, is_current)
                self._changed.notify_all()  # wakes `stop`, and a newer hint of the same key

    def _deliver(self, key: str, hint: _Hint) -> tuple[_Hint | None, float, bool | None]:
        """Deliver once; return the hint to deliver again, if any, and the seconds to wait before.

        The last value is whether the delivery ended with a current verdict, or None if it has not ended.
        """
        bucket = self._ports.store.bucket
        if hint.removed:
            event = s3_event(bucket, [key], removed=True)
            outcomes = ingest.handler(event, LocalContext())["outcomes"]
            _record(outcomes)  # it is there again
            return None, 0, None
        if self._is_settled(key):
            return None, 0, True
        event = sqs_event(bucket, [Job(key, since=hint.since, tries=hint.tries)])
        outcomes = ingest.handler(event, LocalContext())["outcomes"]
        _record(outcomes)
        failed = [item for item in outcomes if item["result"] == "failed"]
        if not failed:
            return None, 0, _is_current(outcomes)
        if self._background.stopping.is_set():
            return None, 0, None
        if failed[0]["passes"]:
            return *_after_error(hint), None
        if hint.tries < len(_PAUSES):
            return replace(hint, tries=hint.tries + 1), _PAUSES[hint.tries], None
        given_up = dead_letter.handler(event, LocalContext())["outcomes"]
        _record(given_up)
        return None, 0, _is_current(given_up)

    def _is_settled(self, key: str) -> bool:
        """Return whether there is nothing to do: then the worklist shows no work, not even for a moment."""
        store, index, release = self._ports.store, self._ports.index, self._ports.release.number
        with suppress(StoreError):  # what is wrong is for the delivery to say
            row = index.get(printable(key))
            if row and row.waiting_since is None and row.source == "present":
                seen, info = read_verdict(store, verdict_key(key)), store.head(key)  # in the judge's order
                is_current = seen.verdict and info and seen.verdict.is_current(info.etag, release)
                return bool(is_current and row.verdict_etag == seen.etag)
        return False

    def _take(self) -> tuple[str, _Hint] | None:
        """Wait for a hint that is due and whose key is not at work; return None when the queue stops."""
        with self._changed:
            while not self._background.stopping.is_set():
                busy = []
                while self._due and self._due[0][0] <= time.monotonic():
                    entry = heapq.heappop(self._due)
                    key = entry[2]
                    if key in self._at_work:
                        busy.append(entry)
                    elif key in self._hints:  # otherwise a duplicate that was delivered already
                        for one in busy:
                            heapq.heappush(self._due, one)
                        self._at_work[key] = hint = self._hints.pop(key)
                        return key, hint
                left = self._due[0][0] - time.monotonic() if self._due else None
                for one in busy:
                    heapq.heappush(self._due, one)
                for _ in range(len(self._backlog)):
                    key = self._backlog.popleft()
                    if key in self._at_work:
                        self._backlog.append(key)
                    elif key in self._hints:
                        self._at_work[key] = hint = self._hints.pop(key)
                        return key, hint
                self._changed.wait(left)
        return None


def _after_error(hint: _Hint) -> tuple[_Hint, float]:
    pause = min(_PAUSE_AFTER_ERROR * 2**hint.errors, _LONGEST_PAUSE)
    return replace(hint, errors=min(hint.errors + 1, 16)), pause


def _is_current(outcomes: list[dict[str, str]]) -> bool | None:
    """Return whether a delivered key's verdict is current; None where the next hint or start has to tell."""
    results = {item["result"] for item in outcomes}
    if results & {"gone", "waiting", "failed"}:
        return None
    return bool(results) and "given_up" not in results


class LocalMonitor:
    """Report on the worker and the queue of this process: the `ports.Monitor` of local mode."""

    def __init__(self, service: Service, queue: LocalQueue) -> None:
        self._service, self._queue = service, queue

    def look(self) -> Operations:
        """Return their state now."""
        return Operations(self._service.status().host(), self._queue.status(), datetime.now(UTC))
