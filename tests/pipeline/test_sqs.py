"""The queue of a bucket, over moto, and SQS's refusals, over a client that refuses."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from moto import mock_aws

from pipeline.aws.sqs import SqsQueue
from pipeline.errors import StoreError
from pipeline.events import Change, parse

SINCE = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setattr("pipeline.aws.sqs._PAUSES", (0, 0))
    with mock_aws():
        yield boto3.client("sqs", "us-east-1")


def received(sqs: Any, url: str) -> list[Change]:
    """Return what `ingest` would find in the messages."""
    found = []
    while messages := sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    ).get("Messages"):
        for message in messages:
            attributes = {
                name: {"stringValue": value["StringValue"]}
                for name, value in message["MessageAttributes"].items()
            }
            record = {"eventSource": "aws:sqs", "messageId": "m", "messageAttributes": attributes}
            found += parse({"Records": [{**record, "body": message["Body"]}]})
    return [change for change in found if isinstance(change, Change)]


def test_every_key_has_a_message_with_its_history(sqs: Any) -> None:
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    keys = [f"inbox/ä + {number}" for number in range(23)]
    SqsQueue(url, sqs, "b").send(keys, SINCE)
    found = received(sqs, url)
    assert sorted(change.key for change in found) == sorted(keys)
    assert {change.since for change in found} == {SINCE}


class Choosy:
    """Accept from each request the messages that the next rule in the list allows."""

    def __init__(self, *refuses: set[str]) -> None:
        self.refuses, self.asked = iter(refuses), list[list[dict[str, Any]]]()

    def send_message_batch(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request["Entries"])
        return {"Failed": [{"Id": id_, "Code": "InternalError"} for id_ in next(self.refuses)]}


def keys_of(entries: list[dict[str, Any]]) -> list[str]:
    return [json.loads(entry["MessageBody"])["Records"][0]["s3"]["object"]["key"] for entry in entries]


def test_what_was_refused_is_sent_again_alone(sqs: Any) -> None:
    client = Choosy({"1", "2"}, {"2"}, set())
    SqsQueue("url", client, "b").send(["a", "b", "c"], SINCE)
    assert [keys_of(entries) for entries in client.asked] == [["a", "b", "c"], ["b", "c"], ["c"]]


def test_what_is_refused_for_good_is_said(sqs: Any) -> None:
    client = Choosy({"1"}, {"1"}, {"1"})
    with pytest.raises(StoreError, match="1 of 3 messages"):
        SqsQueue("url", client, "b").send(["a", "b", "c"], SINCE)


def test_no_delay_is_longer_than_sqs_takes(sqs: Any) -> None:
    client = Choosy(set(), set())
    queue = SqsQueue("url", client, "b")
    queue.send(["a"], SINCE, 7200)
    queue.send(["a"], SINCE, 30)
    assert [entries[0]["DelaySeconds"] for entries in client.asked] == [900, 30]


def test_a_queue_that_is_not_there_is_said(sqs: Any) -> None:
    with pytest.raises(StoreError, match="--stack"):
        SqsQueue("https://sqs.us-east-1.amazonaws.com/123456789012/none", sqs, "b").send(["a"], SINCE)
