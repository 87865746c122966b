"""The queue of a bucket: SQS.

docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
"""

import json
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Any

from pipeline.aws import ask
from pipeline.errors import StoreError
from pipeline.events import s3_event

_BATCH = 10  # messages in a request, at most
_LONGEST_DELAY = 900  # seconds that SQS holds a message back, at most


class SqsQueue:
    """The queue at `url` of the jobs of a bucket, through a boto3 SQS client."""

    def __init__(self, url: str, client: Any, bucket: str) -> None:
        self._url, self._client, self._bucket = url, client, bucket

    def send(self, keys: Iterable[str], since: datetime, delay: float = 0) -> None:
        """Have these keys looked at after `delay` seconds, see `ports.Queue`; a message for each."""
        left = iter(keys)
        while batch := list(islice(left, _BATCH)):
            entries = [
                {
                    "Id": str(number),
                    "MessageBody": json.dumps(s3_event(self._bucket, [key])),
                    "DelaySeconds": min(round(delay), _LONGEST_DELAY),
                    "MessageAttributes": {"since": {"DataType": "String", "StringValue": since.isoformat()}},
                }
                for number, key in enumerate(batch)
            ]
            answer = ask("the queue", self._client.send_message_batch, QueueUrl=self._url, Entries=entries)
            if answer.get("Failed"):
                raise StoreError(f"the queue refused {len(answer['Failed'])} of {len(batch)} messages")
