"""Plays S3 and SQS around the handlers, for local mode: the same functions, the same events."""

import logging
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice

from aws_lambda_powertools.utilities.typing import LambdaContext

from ec2_runner.service import Service
from handlers import dead_letter, ingest, record
from pipeline.errors import IngestFailed, place_of
from pipeline.events import Event, s3_event, sqs_event
from pipeline.intake import Ports
from pipeline.names import printable, verdict_key
from pipeline.ports import Operations, QueueStatus

log = logging.getLogger(__name__)

_PAUSES = (0.5, 2.0)  # seconds before the second and the third delivery, as SQS's visibility timeout
_PAUSE_AFTER_ERROR = 5.0  # seconds before what could neither be done nor given up is tried again
_WITH_VERDICT = ("classified", "rejected", "given_up")  # S3 would tell of the verdict that was written
_BATCH = 16  # records in an event; the page learns of their verdicts together


class LocalContext(LambdaContext):
    """What the handlers use of Lambda's context."""

    def __init__(self) -> None:
        self._function_name = "local"
        self._aws_request_id = str(uuid.uuid4())


@dataclass(frozen=True)
class Answer:
    """What became of an event: key and result of each record, and why others were ignored."""

    outcomes: list[dict[str, str]]
    ignored: list[str]


def deliver(event: Event) -> Answer:
    """Deliver an event until its records are done: again after a
    failure, to the dead letters after the third.

    What reached the outbox goes to `record`, as S3 would see to. IngestFailed when not even a `failed`
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
        _record([key for key, result in latest.items() if result in _WITH_VERDICT])
        outcomes |= {key: result for key, result in latest.items() if outcomes.get(key) in (None, "failed")}
        if "failed" not in latest.values():
            break
        if pause:
            time.sleep(pause)
    else:
        given_up = dead_letter.handler(event, LocalContext())["outcomes"]
        _record([item["key"] for item in given_up if item["result"] in _WITH_VERDICT])
        outcomes |= {item["key"]: item["result"] for item in given_up if outcomes[item["key"]] == "failed"}
    return Answer([{"key": key, "result": result} for key, result in outcomes.items()], ignored)


def _record(keys: list[str]) -> None:
    if keys:
        record.handler(s3_event("local", [verdict_key(key) for key in keys]), LocalContext())


@dataclass(frozen=True)
class _Hint:
    removed: bool
    due: float  # on the monotonic clock
    since: datetime


class LocalQueue:
    """Plays SQS: takes hints at any time, hands them to `ingest` in batches from a thread of its own.

    What could not be delivered, nor be given up (a full disk, say), stays in the queue.
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._hints: dict[str, _Hint] = {}
        self._at_work: dict[str, _Hint] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._pump, name="cxr-queue", daemon=True)
        self._thread.start()

    def hint(self, key: str, removed: bool) -> None:
        """Queue a hint that a key changed; the worklist shows a new one as waiting at once."""
        row = printable(key)
        if not removed and self._ports.index.get(row) is None:
            self._ports.index.wait([row], datetime.now(UTC))
        self._queue(key, _Hint(removed, time.monotonic(), datetime.now(UTC)))

    def send(self, keys: Iterable[str], since: datetime, delay: float = 0) -> None:
        """Have these keys looked at after `delay` seconds, see `ports.Queue`."""
        for key in keys:
            self._queue(key, _Hint(False, time.monotonic() + delay, since))

    def status(self) -> QueueStatus:
        """How much is still to be done."""
        with self._changed:
            left = (self._at_work | self._hints).values()
            return QueueStatus(len(left), min((hint.since for hint in left), default=None))

    def stop(self) -> None:
        """Finish the batch at work and end; what is still queued is found again at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(60)

    def _queue(self, key: str, hint: _Hint) -> None:
        with self._changed:
            self._hints[key] = hint
            self._changed.notify()

    def _pump(self) -> None:
        while not self._stopping:
            batch = self._batch()
            for removed in (False, True):
                hints = {key: hint for key, hint in batch.items() if hint.removed is removed}
                if hints:
                    self._deliver(hints, removed)
            with self._changed:
                self._at_work = {}

    def _deliver(self, hints: dict[str, _Hint], removed: bool) -> None:
        bucket = self._ports.store.bucket
        try:
            if removed:
                deliver(s3_event(bucket, list(hints), removed=True))
            else:
                deliver(sqs_event(bucket, {key: hint.since for key, hint in hints.items()}))
        except Exception as error:  # noqa: BLE001  the queue must live
            log.error("an event could not be delivered, and will be again: %s", place_of(error))
            for key, hint in hints.items():
                self._queue(key, replace(hint, due=time.monotonic() + _PAUSE_AFTER_ERROR))

    def _batch(self) -> dict[str, _Hint]:
        """Wait for hints that are due, and take some; none when the queue is to end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                ready = ((key, hint) for key, hint in self._hints.items() if hint.due <= now)
                batch = dict(islice(ready, _BATCH))
                if batch:
                    for key in batch:
                        del self._hints[key]
                    self._at_work = batch
                    return batch
                self._changed.wait(min((hint.due - now for hint in self._hints.values()), default=None))
        return {}


class LocalMonitor:
    """How the worker and the queue of this process are: `ports.Monitor` for local mode."""

    def __init__(self, service: Service, queue: LocalQueue) -> None:
        self._service, self._queue = service, queue

    def look(self) -> Operations:
        """How they are now."""
        return Operations(self._service.status().host(), self._queue.status(), datetime.now(UTC))
