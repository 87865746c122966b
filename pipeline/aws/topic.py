"""Publish notices of new verdicts on the topic of a stack: SNS.

docs.aws.amazon.com/sns/latest/api/API_Publish.html
"""

import json
from typing import Any, Protocol

from pipeline.aws.errors import ask
from pipeline.judge import read_verdict
from pipeline.notices.notice import Notice, NoticeWriter
from pipeline.outgoing.delivery import Delivery
from pipeline.ports import Store


class SnsClient(Protocol):
    """Publish on a topic: the part of boto3's client that is used here."""

    def publish(self, **request: Any) -> Any:
        """Send one message to the subscribers."""


class Topic:
    """Tell the subscribers of the topic `arn` of verdicts in a store."""

    def __init__(self, arn: str, client: SnsClient, store: Store, secret: str) -> None:
        self._arn, self._client, self._store = arn, client, store
        self._writer = NoticeWriter("topic", secret)

    def tell_of(self, verdict_key: str) -> None:
        """Publish the verdict at an outbox key, if there is one; raise StoreError if that fails."""
        seen = read_verdict(self._store, verdict_key)
        if seen.verdict is None or seen.etag is None:
            return
        notice = self._writer.write(Delivery(seen.verdict.source.key, seen.etag, seen.verdict))
        ask(
            "the topic of notices",
            self._client.publish,
            TopicArn=self._arn,
            Subject=notice.title,
            Message=json.dumps({"default": notice.to_json().decode(), "email": notice.text}),
            MessageStructure="json",
            MessageAttributes=_attributes(notice),
        )


def _attributes(notice: Notice) -> dict[str, dict[str, str]]:
    """Return the attributes by which subscriptions filter."""
    data = notice.data
    texts = {"id": data.id, "status": data.status, "label": data.label}
    found = {name: {"DataType": "String", "StringValue": value} for name, value in texts.items() if value}
    if data.warnings:
        found["warnings"] = {"DataType": "String.Array", "StringValue": json.dumps(data.warnings)}
    return found
