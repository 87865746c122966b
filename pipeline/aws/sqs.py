"""Send the jobs of a bucket to its queue: SQS.

docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
"""

import json
import time
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.aws.errors import ask
from pipeline.errors import StoreError
from pipeline.events import s3_event

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

_BATCH = 10  # most messages in a request
_LONGEST_DELAY = 900  # longest delay of a message in SQS, in seconds
_PAUSES = (0.2, 1.0)  # seconds before refused messages of a request are sent again


class SqsQueue:
    """Send jobs to the SQS queue at `url`, through a boto3 client; implements `ports.Queue`."""

    def __init__(self, url: str, client: "SQSClient", bucket: str) -> None:
        self._url, self._client, self._bucket = url, client, bucket

    def send(self, keys: Iterable[str], since: datetime, delay: float = 0) -> None:
        """Queue one message per key, to be delivered after `delay` seconds; see `ports.Queue`."""
        left = iter(keys)
        while batch := list(islice(left, _BATCH)):
            entries: list[SendMessageBatchRequestEntryTypeDef] = [
                {
                    "Id": str(number),
                    "MessageBody": json.dumps(s3_event(self._bucket, [key])),
                    "DelaySeconds": min(round(delay), _LONGEST_DELAY),
                    "MessageAttributes": {"since": {"DataType": "String", "StringValue": since.isoformat()}},
                }
                for number, key in enumerate(batch)
            ]
            self._send(entries)

    def backlog(self) -> int:
        """Return about how many jobs wait, now or for a later delivery."""
        names: list[QueueAttributeNameType] = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
        ]
        look = self._client.get_queue_attributes
        found = ask("the queue", look, QueueUrl=self._url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def _send(self, entries: "list[SendMessageBatchRequestEntryTypeDef]") -> None:
        """Send the messages, and again those that SQS refused; it may accept only some of a request."""
        left = self._refused(entries)
        for pause in _PAUSES:
            if not left:
                return
            time.sleep(pause)
            left = self._refused(left)
        if left:
            raise StoreError(f"the queue refused {len(left)} of {len(entries)} messages")

    def _refused(
        self, entries: "list[SendMessageBatchRequestEntryTypeDef]"
    ) -> "list[SendMessageBatchRequestEntryTypeDef]":
        answer = ask("the queue", self._client.send_message_batch, QueueUrl=self._url, Entries=entries)
        numbers = {failure["Id"] for failure in answer.get("Failed", [])}
        return [entry for entry in entries if entry["Id"] in numbers]
