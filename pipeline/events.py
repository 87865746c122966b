"""Read from an event which inbox and outbox keys changed.

Accepts S3's notifications in every shape in which they arrive: plain, in SQS messages (many records in many
messages), from EventBridge (alone or in SQS), and S3's test event. An event is a hint: nothing but the key is
used. Formats: docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html and
ev-events.html.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from pipeline.names import INBOX, is_review, is_unfinished, is_verdict
from pipeline.records import Job

Event = dict[str, Any]
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Change:
    """Describe a key that was created or removed.

    `message_id` identifies the SQS message that reported it; the fields after it are those of its job.
    """

    key: str
    removed: bool = False
    message_id: str | None = None
    since: datetime | None = None
    tries: int = 0
    queued_at: datetime | None = None


@dataclass(frozen=True)
class Ignored:
    """Describe a record that needs no work, with the reason: a sentence without the key."""

    reason: str
    message_id: str | None = None


def parse(event: Event) -> list[Change | Ignored]:
    """Return the records of an event of any shape, in order.

    Never raises: a record that is not an event of S3 is ignored with a reason, each record by itself.
    """
    return list(_records(event, None))


def in_inbox(records: list[Change | Ignored]) -> list[Change | Ignored]:
    """Return the same records, with changes outside the inbox ignored for a stated reason."""
    return [_inbox_only(record) for record in records]


def in_outbox(records: list[Change | Ignored]) -> list[Change | Ignored]:
    """Return the same records, with all but changes of verdicts and reviews ignored for a reason."""
    return [
        Ignored("not a verdict of the outbox", record.message_id)
        if isinstance(record, Change) and not (is_verdict(record.key) or is_review(record.key))
        else record
        for record in records
    ]


def s3_event(bucket: str, keys: list[str], removed: bool = False) -> Event:
    """Build a notification as S3 writes it, with keys encoded as S3 encodes them; for local mode."""
    name = "ObjectRemoved:Delete" if removed else "ObjectCreated:Put"
    return {
        "Records": [
            {
                "eventVersion": "2.3",
                "eventSource": "aws:s3",
                "awsRegion": "local",
                "eventTime": datetime.now(UTC).isoformat(),
                "eventName": name,
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
                    "object": {"key": quote_plus(key, safe="/", errors="surrogateescape")},
                },
            }
            for key in keys
        ]
    }


def sqs_event(bucket: str, jobs: Iterable[Job]) -> Event:
    """Build SQS messages as delivered, one for each job; for local mode."""
    return {
        "Records": [
            {
                "messageId": str(number),
                "eventSource": "aws:sqs",
                "body": json.dumps(s3_event(bucket, [job.key])),
                "messageAttributes": {
                    name: {"stringValue": value, "dataType": "String"} for name, value in noted(job).items()
                },
            }
            for number, job in enumerate(jobs)
        ]
    }


def noted(job: Job) -> dict[str, str]:
    """Return what a message notes about its job, besides the key."""
    times = {"since": job.since, "queued_at": job.queued_at}
    found = {name: time.isoformat() for name, time in times.items() if time}
    return {**found, "tries": str(job.tries)} if job.tries else found


def _records(event: Event, message_id: str | None) -> Iterator[Change | Ignored]:
    try:
        if event.get("Event") == "s3:TestEvent":
            yield Ignored("S3's test of the connection", message_id)
        elif "detail-type" in event:
            yield _from_eventbridge(event, message_id)
        elif isinstance(event["Records"], list):
            for record in event["Records"]:
                yield from _from_record(record, message_id)
        else:
            yield Ignored("this is not an event of S3", message_id)
    except _MALFORMED:
        yield Ignored("this is not an event of S3", message_id)


def _from_record(record: Event, message_id: str | None) -> Iterator[Change | Ignored]:
    try:
        if record.get("eventSource") != "aws:sqs":
            yield _from_s3(record, message_id)
        elif message_id is None:  # messages are not nested
            yield from _from_sqs(record)
        else:
            yield Ignored("this is not a record of S3", message_id)
    except _MALFORMED:
        yield Ignored("this is not a record of S3", message_id)


def _from_sqs(record: Event) -> Iterator[Change | Ignored]:
    message_id = _text(record["messageId"])
    try:
        body = json.loads(record["body"])
    except _MALFORMED:
        yield Ignored("the message's body is not an event of S3", message_id)
        return
    for found in _records(body, message_id):
        if isinstance(found, Change):
            # The time in the queue before the first delivery is no wait: nobody was looking for a host then.
            since, queued_at = _time(record, "since"), _time(record, "queued_at")
            found = replace(found, since=since, tries=_tries(record), queued_at=queued_at)
        yield found


def _time(record: Event, name: str) -> datetime | None:
    """Return a time of a message's job, as `Queue.send` noted it."""
    try:
        return datetime.fromisoformat(record["messageAttributes"][name]["stringValue"]).astimezone(UTC)
    except _MALFORMED:
        return None


def _tries(record: Event) -> int:
    """Return how often the job of a message was tried: as `Queue.send` noted it, and with this message."""
    tries = 0
    with suppress(*_MALFORMED):
        tries += max(0, int(record["attributes"]["ApproximateReceiveCount"]) - 1)
    with suppress(*_MALFORMED):
        tries += max(0, int(record["messageAttributes"]["tries"]["stringValue"]))
    return tries


def _from_s3(record: Event, message_id: str | None) -> Change | Ignored:
    name = _text(record["eventName"]).removeprefix("s3:")
    # S3 uses form encoding: a plus is a space.
    key = unquote_plus(_text(record["s3"]["object"]["key"]), errors="surrogateescape")
    return _change(
        name.startswith("ObjectCreated:"),
        name.startswith(("ObjectRemoved:", "LifecycleExp")),
        key,
        message_id,
    )


def _from_eventbridge(event: Event, message_id: str | None) -> Change | Ignored:
    kind, key = event["detail-type"], _text(event["detail"]["object"]["key"])  # keys are not encoded here
    return _change(kind == "Object Created", kind == "Object Deleted", key, message_id)


def _change(created: bool, removed: bool, key: str, message_id: str | None) -> Change | Ignored:
    if not created and not removed:
        return Ignored("neither a creation nor a deletion", message_id)
    return Change(key, removed, message_id)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _inbox_only(record: Change | Ignored) -> Change | Ignored:
    if isinstance(record, Ignored):
        return record
    if not record.key.startswith(INBOX):
        return Ignored("outside the inbox", record.message_id)
    if record.key.endswith("/"):
        return Ignored("a folder's marker, not a file", record.message_id)
    if is_unfinished(record.key):
        return Ignored("hidden, unfinished or a system's own file, not an X-ray", record.message_id)
    return record
