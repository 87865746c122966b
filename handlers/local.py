"""Plays S3 and SQS around the handlers, for local mode: the same functions, the same events."""

import logging
import queue
import threading
import time
import uuid
from dataclasses import dataclass

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import dead_letter, ingest, record
from pipeline.errors import IngestFailed, place_of
from pipeline.events import Event, s3_event
from pipeline.names import verdict_key
from pipeline.ports import Store
from pipeline.sqlite import SqliteIndex

log = logging.getLogger(__name__)

_PAUSES = (0.5, 2.0)  # seconds before the second and the third delivery, as SQS's visibility timeout
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
    """Deliver an event until its records are done: again after a failure, to the dead letters after the
    third.

    What reached the outbox goes to `record`, as S3 would see to.
    """
    outcomes: dict[str, str] = {}
    ignored: list[str] = []
    for pause in (*_PAUSES, None):
        try:
            answer = ingest.handler(event, LocalContext())
            latest, ignored = {item["key"]: item["result"] for item in answer["outcomes"]}, answer["ignored"]
        except IngestFailed as error:
            latest = {outcome.key: outcome.result for outcome in error.outcomes}
        _record([key for key, result in latest.items() if result in ("classified", "rejected")])
        outcomes |= {key: result for key, result in latest.items() if outcomes.get(key) in (None, "failed")}
        if "failed" not in latest.values():
            break
        if pause:
            time.sleep(pause)
    else:
        given_up = dead_letter.handler(event, LocalContext())["outcomes"]
        _record([item["key"] for item in given_up])
    return Answer([{"key": key, "result": result} for key, result in outcomes.items()], ignored)


def _record(keys: list[str]) -> None:
    if keys:
        record.handler(s3_event("local", [verdict_key(key) for key in keys]), LocalContext())


def send_deletions(store: Store, index: SqliteIndex, queue: "LocalQueue") -> None:
    """Queue what was deleted while nobody watched: rows whose source is marked as present, and is not
    there.
    """
    for key in index.present():
        if store.head(key) is None:
            queue.send(key, removed=True)


class LocalQueue:
    """Plays SQS: takes hints at any time, hands them to `ingest` in batches from a thread of its own."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._hints: queue.SimpleQueue[tuple[str, bool] | None] = queue.SimpleQueue()
        self._busy = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="cxr-queue", daemon=True)
        self._thread.start()

    def send(self, key: str, removed: bool) -> None:
        """Queue a hint that a key changed."""
        self._hints.put((key, removed))

    def stop(self) -> None:
        """Finish the batch at work and end; what is still queued is found again at the next start."""
        self._hints.put(None)
        self._thread.join(60)

    def _pump(self) -> None:
        stopping = False
        while not stopping:
            hints, stopping = self._batch()
            for removed in (False, True):
                keys = list(dict.fromkeys(key for key, gone in hints if gone is removed))
                if keys:
                    self._deliver(s3_event(self._bucket, keys, removed))

    def _deliver(self, event: Event) -> None:
        try:
            deliver(event)
        except Exception as error:  # noqa: BLE001  the queue must live; the next start says the same keys again
            log.error("an event could not be delivered: %s", place_of(error))

    def _batch(self) -> tuple[list[tuple[str, bool]], bool]:
        """Wait for a hint and take what came with it; and whether the queue is to end."""
        first = self._hints.get()
        if first is None:
            return [], True
        hints = [first]
        while len(hints) < _BATCH:
            try:
                hint = self._hints.get_nowait()
            except queue.Empty:
                break
            if hint is None:
                return hints, True
            hints.append(hint)
        return hints, False
