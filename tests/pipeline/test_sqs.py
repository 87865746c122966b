"""The queue of a bucket, over moto, and SQS's refusals, over a client that refuses."""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from pipeline.aws.sqs import SqsQueue
from pipeline.errors import HostNotReady, NotQueued, StoreError
from pipeline.events import Change, parse, s3_event
from pipeline.intake import ingest
from pipeline.records import Job, Outcome
from tests.support.fakes import make_ports, store_of

SINCE = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setattr("pipeline.aws.sqs._PAUSES", (0, 0))
    with mock_aws():
        yield boto3.client("sqs", "us-east-1")


def make_queue(url: str, sqs: Any) -> SqsQueue:
    return SqsQueue(url, sqs, "b", lambda: boto3.client("cloudwatch", "us-east-1"))


def jobs(*keys: str) -> list[Job]:
    return [Job(key, since=SINCE, tries=2) for key in keys]


def received(sqs: Any, url: str) -> list[Change]:
    """Return what `ingest` would find in the messages."""
    found = []
    while messages := sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    ).get("Messages"):
        for message in messages:
            found += parse({"Records": [record_of(message)]})
    return [change for change in found if isinstance(change, Change)]


def record_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as Lambda writes it into an event."""
    attributes = {
        name: {"stringValue": value["StringValue"]}
        for name, value in message.get("MessageAttributes", {}).items()
    }
    return {
        "eventSource": "aws:sqs",
        "messageId": message["MessageId"],
        "messageAttributes": attributes,
        "body": message["Body"],
    }


def test_every_key_has_a_message_with_its_history(sqs: Any) -> None:
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    keys = [f"inbox/ä + {number}" for number in range(23)]
    make_queue(url, sqs).send(jobs(*keys))
    found = received(sqs, url)
    assert sorted(change.key for change in found) == sorted(keys)
    assert {(change.since, change.tries) for change in found} == {(SINCE, 2)}


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
    make_queue("url", client).send(jobs("a", "b", "c"))
    assert [keys_of(entries) for entries in client.asked] == [["a", "b", "c"], ["b", "c"], ["c"]]


def test_what_is_refused_for_good_is_said(sqs: Any) -> None:
    client = Choosy({"1"}, {"1"}, {"1"})
    with pytest.raises(NotQueued, match="refused some") as refusal:
        make_queue("url", client).send(jobs("a", "b", "c"))

    assert [job.key for job in refusal.value.jobs] == ["b"]


def test_no_delay_is_longer_than_sqs_takes(sqs: Any) -> None:
    client = Choosy(set(), set())
    queue = make_queue("url", client)
    queue.send(jobs("a"), 7200)
    queue.send(jobs("a"), 30)
    assert [entries[0]["DelaySeconds"] for entries in client.asked] == [900, 30]


def test_a_queue_that_is_not_there_is_said(sqs: Any) -> None:
    with pytest.raises(StoreError, match="--stack"):
        make_queue("https://sqs.us-east-1.amazonaws.com/123456789012/none", sqs).send(jobs("a"))


def test_failed_messages_come_again_when_they_are_asked_to(sqs: Any) -> None:
    url = sqs.create_queue(QueueName="q", Attributes={"VisibilityTimeout": "720"})["QueueUrl"]
    make_queue(url, sqs).send(jobs(*(f"inbox/{number}" for number in range(12))))
    taken: list[dict[str, Any]] = []
    while found := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        taken += found
    assert len(taken) == 12
    make_queue(url, sqs).hasten({message["ReceiptHandle"]: 0 for message in taken[:11]})
    assert len(received(sqs, url)) == 11


def test_messages_that_cannot_be_hastened_keep_their_time(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing:
        def change_message_visibility_batch(self, **request: Any) -> dict[str, Any]:
            entries = request["Entries"]
            return {"Failed": [{"Id": entries[0]["Id"], "Code": "ReceiptHandleIsInvalid"}]}

    make_queue("url", Refusing()).hasten({"receipt": 20})
    assert "1 failed messages come again late: ReceiptHandleIsInvalid" in caplog.text
    with mock_aws():
        gone = boto3.client("sqs", "us-east-1")
        make_queue("https://sqs.us-east-1.amazonaws.com/123456789012/none", gone).hasten({"receipt": 20})


class NoHost:
    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        raise HostNotReady("none is there", 0)

    def abandon(self) -> None:
        pass


def take(sqs: Any, url: str) -> list[dict[str, Any]]:
    """Return the messages that wait, and delete them."""
    taken: list[dict[str, Any]] = []
    asked = {"QueueUrl": url, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
    while found := sqs.receive_message(**asked).get("Messages"):
        taken += found
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return taken


@pytest.mark.parametrize("functions", [1, 3])
def test_messages_that_come_twice_in_a_wait_do_not_become_more_and_more(
    sqs: Any, tmp_path: Path, functions: int
) -> None:
    """Each comes twice, in any order, to any of several processes, which know only what they sent."""
    url, chance = sqs.create_queue(QueueName="q")["QueueUrl"], random.Random(1)
    made = make_ports(tmp_path)
    ports = [replace(made, host=NoHost(), queue=make_queue(url, sqs)) for _ in range(functions)]
    keys = [f"inbox/{number}" for number in range(12)]
    events = [s3_event("b", [key]) for key in keys]
    for event in events:
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps(event))
    for turn in range(12):
        messages = 2 * take(sqs, url)
        chance.shuffle(messages)
        for first in range(0, len(messages), 5):
            records = [record_of(message) for message in messages[first : first + 5]]
            report = ingest({"Records": records}, chance.choice(ports))
            assert not report.failed_messages
        assert turn < 2 or len(messages) <= 2 * functions * len(keys)  # S3's own are all needed
    left = take(sqs, url)
    assert {change.key for change in changes_of(left)} == set(keys)  # none is lost
    store_of(made).objects.update({key: b"P%d" % n for n, key in enumerate(keys)})
    there = [replace(one, host=made.host) for one in ports]
    results = [
        outcome.result
        for message in left
        for outcome in ingest({"Records": [record_of(message)]}, chance.choice(there)).outcomes
    ]
    assert results.count("classified") == len(keys)


def changes_of(messages: list[dict[str, Any]]) -> list[Change]:
    found = parse({"Records": [record_of(message) for message in messages]})
    return [one for one in found if isinstance(one, Change)]


def queued(key: str, seconds: int = 0) -> Job:
    return Job(key, since=SINCE, queued_at=SINCE + timedelta(seconds=seconds))


def test_only_an_earlier_message_of_the_same_key_is_not_needed(sqs: Any) -> None:
    queue = make_queue("url", Choosy(set()))
    queue.send([queued("a", 5)])
    needed = [queued("a", 5), queued("a", 6), queued("b", 4), Job("a", since=SINCE)]
    assert [queue.has_later(job) for job in needed] == [False] * 4
    assert queue.has_later(queued("a", 4))
    assert not make_queue("url", Choosy()).has_later(queued("a", 4))


def test_a_message_that_the_queue_did_not_take_replaces_none(sqs: Any) -> None:
    queue = make_queue("url", Choosy({"0"}, {"0"}, {"0"}))
    with pytest.raises(NotQueued):
        queue.send([queued("a", 5), queued("b", 5)])
    assert [queue.has_later(queued(key)) for key in "ab"] == [False, True]


def test_no_more_keys_are_remembered_than_fit(sqs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.aws.sqs._REMEMBERED", 2)
    queue = make_queue("url", Choosy(set(), set()))
    queue.send([queued(key, 5) for key in "abc"])
    queue.send([queued(key, 5) for key in "bd"])
    assert [key for key in "abcd" if queue.has_later(queued(key))] == ["b", "d"]


NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


class Measured:
    """Answer as SQS and CloudWatch do: so many messages, and the ages measured at minutes before NOW."""

    def __init__(self, messages: tuple[int, int, int], ages: dict[int, float]) -> None:
        self.messages, self.ages = messages, ages

    def get_queue_attributes(self, **request: Any) -> dict[str, Any]:
        return {"Attributes": dict(zip(request["AttributeNames"], map(str, self.messages), strict=True))}

    def get_metric_statistics(self, **request: Any) -> dict[str, Any]:
        assert request["Dimensions"] == [{"Name": "QueueName", "Value": "cxr-inbox-jobs"}]
        points = {NOW - timedelta(minutes=before): age for before, age in self.ages.items()}
        return {
            "Datapoints": [
                {"Timestamp": at, "Maximum": age}
                for at, age in points.items()
                if request["StartTime"] <= at < request["EndTime"]
            ]
        }


@pytest.mark.parametrize(
    ("messages", "ages", "minutes"),
    [
        ((0, 0, 0), {2: 600.0}, None),  # the measurement is older than the count
        ((9, 0, 0), {2: 600.0, 7: 60.0, 3: 900.0}, 12),
        ((0, 1, 0), {1: 0.0}, 1),
        ((0, 0, 5), {}, 30),  # woke up a moment ago: CloudWatch does not measure it yet
        ((3, 0, 0), {40: 7200.0}, 30),  # the same, after sleeping for a while
    ],
)
def test_the_oldest_message(
    messages: tuple[int, int, int], ages: dict[int, float], minutes: float | None
) -> None:
    known = Measured(messages, ages)
    queue = SqsQueue("https://sqs/1/cxr-inbox-jobs", known, "b", lambda: known)  # type: ignore[arg-type,return-value]
    expected = None if minutes is None else NOW - timedelta(minutes=minutes)
    assert queue.oldest_sent(NOW) == expected
