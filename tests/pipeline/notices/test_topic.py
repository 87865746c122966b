"""The topic of a stack, with a subscribed queue, over moto; and what the function that publishes does."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from cxr.local import LocalContext
from handlers import record, wiring
from pipeline.aws.topic import Topic
from pipeline.errors import StoreError
from pipeline.events import s3_event
from pipeline.intake import Ports
from pipeline.records import Job
from pipeline.settings import Settings
from tests.support.fakes import MemoryStore, make_judge, make_ports

pytestmark = pytest.mark.whole
REGION = "eu-central-1"


class Stack:
    """Hold a topic with a queue that follows it, and the ports of the function that publishes."""

    def __init__(self, folder: Path, rule: dict[str, Any]) -> None:
        self.sns, self.sqs = boto3.client("sns", REGION), boto3.client("sqs", REGION)
        self.topic = self.sns.create_topic(Name="cxr-inbox-notices")["TopicArn"]
        self.queue = self.sqs.create_queue(QueueName="subscriber")["QueueUrl"]
        self.sns.subscribe(
            TopicArn=self.topic,
            Protocol="sqs",
            Endpoint=f"arn:aws:sqs:{REGION}:123456789012:subscriber",
            Attributes={"FilterPolicy": json.dumps(rule)},
        )
        self.store = MemoryStore()
        chosen = Topic(self.topic, self.sns, self.store, "a key")
        self.ports: Ports = replace(make_ports(folder, self.store), topic=chosen)
        wiring.provide(self.ports)

    def judge(self, name: str, data: bytes = b"P") -> str:
        self.store.objects[f"inbox/{name}"] = data
        make_judge(self.store).judge(Job(f"inbox/{name}"))
        return f"outbox/{name}.json"

    def record(self, *keys: str) -> dict[str, Any]:
        event = s3_event("b", list(keys))
        return record.handler(event, LocalContext())

    def got(self) -> list[dict[str, Any]]:
        """Return what the subscriber got: SNS's envelopes."""
        found: list[dict[str, Any]] = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            found += (json.loads(message["Body"]) for message in messages)
            for message in messages:
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Stack]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        made = Stack(tmp_path, getattr(request, "param", {}))
        yield made
        made.ports.index.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("stack", [{"label": ["pneumonia"]}], indirect=True)
def test_a_subscription_chooses_and_no_name_leaves(stack: Stack) -> None:
    keys = [stack.judge("Zaphod", b"P"), stack.judge("b", b"N"), stack.judge("c", b"bad")]
    assert stack.record(*keys) == {"recorded": 3}
    [envelope] = stack.got()
    notice = json.loads(envelope["Message"])
    assert (notice["type"], notice["data"]["label"]) == ("verdict", "pneumonia")
    assert notice["data"]["verdict_etag"] == stack.store.head(keys[0]).etag  # type: ignore[union-attr]
    assert "Zaphod" not in json.dumps(envelope)
    attributes = {name: one["Value"] for name, one in envelope["MessageAttributes"].items()}
    assert attributes == {"id": notice["data"]["id"], "status": "classified", "label": "pneumonia"}


@pytest.mark.parametrize("stack", [{"warnings": ["other_population"]}], indirect=True)
def test_warnings_choose_too(stack: Stack) -> None:
    stack.record(stack.judge("a", b"P"), stack.judge("b", b"P other_population age_unknown"))
    [envelope] = stack.got()
    notice = json.loads(envelope["Message"])["data"]
    assert notice["warnings"] == ["other_population", "age_unknown"]
    assert "probability" not in notice


def test_at_least_once_with_one_id(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    key = stack.judge("a")

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("the topic of notices did not answer: ReadTimeoutError")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.aws.topic.ask", refuse)
        event = {
            "Records": [
                {"eventSource": "aws:sqs", "messageId": "m", "body": json.dumps(s3_event("b", [key]))}
            ]
        }
        answer = record.handler(event, LocalContext())
    assert answer["batchItemFailures"] == [{"itemIdentifier": "m"}]  # SQS brings it again
    row = stack.ports.index.get("inbox/a")
    assert row
    assert row.status == "classified"  # the page does not wait for SNS
    assert stack.got() == []
    stack.record(key)  # although its row is there already
    stack.record(key)  # S3 may tell twice
    ids = [json.loads(envelope["Message"])["data"]["id"] for envelope in stack.got()]
    assert len(ids) == 2
    assert len(set(ids)) == 1
    stack.judge("a", b"P2")
    stack.record(key)
    assert json.loads(stack.got()[0]["Message"])["data"]["id"] not in ids


def test_erased_and_foreign_objects_are_no_news(stack: Stack) -> None:
    key = stack.judge("a")
    stack.store.objects["outbox/copy.json"] = stack.store.objects[key]  # in another's place
    stack.store.objects["outbox/other.json"] = b"{}"
    stack.store.delete(key)
    stack.record(key, "outbox/copy.json", "outbox/other.json")
    assert stack.got() == []


def test_the_settings_choose_the_topic(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    settings = Settings(bucket="xrays", notices_topic=stack.topic, log_key="0123456789abcdef")
    assert isinstance(wiring.make_ports(settings).topic, Topic)
    assert wiring.make_ports(Settings(bucket="xrays")).topic is None
