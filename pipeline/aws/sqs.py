"""Send the jobs of a bucket to its queue, and see how far that is: SQS.

docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from pipeline.aws.errors import ask
from pipeline.errors import NotQueued, StoreError
from pipeline.events import noted, s3_event
from pipeline.records import Job
from pipeline.running.parallel import unordered

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_BATCH = 10  # most messages in a request
_AT_ONCE = 8  # parallel requests
_REMEMBERED = 50_000  # keys, of which it is known when they were queued last: about 10 MB
_LONGEST_DELAY = 900  # longest delay of a message in SQS, in seconds
_PAUSES = (0.2, 1.0)  # seconds before refused messages of a request are sent again
_COUNTS: "tuple[QueueAttributeNameType, ...]" = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_MEASURED = timedelta(minutes=15)  # CloudWatch measures a queue each minute; one that slept, after this long
_ASLEEP = timedelta(minutes=30)  # so the messages of a queue that has no figures are younger than this


class SqsQueue:
    """Send jobs to the SQS queue at `url`, through a boto3 client; implements `ports.Queue`.

    `watch` makes a client of CloudWatch, which knows the age of the oldest message.
    """

    def __init__(
        self, url: str, client: "SQSClient", bucket: str, watch: "Callable[[], CloudWatchClient]"
    ) -> None:
        self._url, self._client, self._bucket, self._watch = url, client, bucket, watch
        self._queued_at: dict[str, datetime] = {}  # by key, the last ones at the end

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        """Queue one message per job, ten with each request; see `ports.Queue`."""
        lost: list[Job] = []
        reason = ""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for left, why in unordered(pool, partial(self._send, delay), _tens(jobs), 2 * _AT_ONCE):
                lost += left
                reason = why or reason
        while len(self._queued_at) > _REMEMBERED:
            del self._queued_at[next(iter(self._queued_at))]
        if lost:
            raise NotQueued(reason, lost)

    def has_later(self, job: Job) -> bool:
        """Return whether a later job of the same key was sent, see `ports.Queue`.

        What is sent after a message has come never seems to be older: `ingest` sees to that, and delays a
        message for a second or more, within which the functions' clocks agree.
        """
        return job.queued_at is not None and job.queued_at < self._queued_at.get(job.key, job.queued_at)

    def _remember(self, job: Job) -> None:
        if job.queued_at:
            self._queued_at.pop(job.key, None)  # so that it moves to the end
            self._queued_at[job.key] = job.queued_at

    def hasten(self, receipts: Mapping[str, float]) -> None:
        """Change how long messages stay invisible; one that keeps its time comes later, see `ports.Queue`."""
        for batch in _tens(receipts.items()):
            entries = [
                {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": round(seconds)}
                for number, (receipt, seconds) in enumerate(batch)
            ]
            change = self._client.change_message_visibility_batch
            try:
                answer = ask("the queue", change, QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
            except StoreError as error:
                log.warning("failed messages come again late: %s", error)
                continue
            if refused := answer.get("Failed", []):
                log.warning("%d failed messages come again late: %s", len(refused), refused[0].get("Code"))

    def backlog(self) -> int:
        """Return about how many jobs wait, now or for a later delivery."""
        return self._count("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed")

    def oldest_sent(self, now: datetime) -> datetime | None:
        """Return when the oldest message was sent, or some time before; None where there is no message.

        SQS counts its messages and CloudWatch knows their age, both with a delay of a minute or two.
        """
        if not self._count(*_COUNTS):
            return None
        measured = ask(
            "CloudWatch",
            self._watch().get_metric_statistics,
            Namespace="AWS/SQS",
            MetricName="ApproximateAgeOfOldestMessage",
            Dimensions=[{"Name": "QueueName", "Value": self._url.rpartition("/")[2]}],
            StartTime=now - _MEASURED,
            EndTime=now,
            Period=60,
            Statistics=["Maximum"],
        )["Datapoints"]
        if not measured:
            return now - _ASLEEP
        last = max(measured, key=lambda point: point["Timestamp"])
        return last["Timestamp"] - timedelta(seconds=last["Maximum"])

    def _count(self, *names: "QueueAttributeNameType") -> int:
        look = self._client.get_queue_attributes
        found = ask("the queue", look, QueueUrl=self._url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def _send(self, delay: float, jobs: list[Job]) -> tuple[list[Job], str]:
        """Send some messages, and again those that SQS refused; return the jobs that are left, and why."""
        left: list[SendMessageBatchRequestEntryTypeDef] = [
            {
                "Id": str(number),
                "MessageBody": json.dumps(s3_event(self._bucket, [job.key])),
                "DelaySeconds": min(round(delay), _LONGEST_DELAY),
                "MessageAttributes": {
                    name: {"DataType": "String", "StringValue": value} for name, value in noted(job).items()
                },
            }
            for number, job in enumerate(jobs)
        ]
        for pause in (*_PAUSES, None):
            send = self._client.send_message_batch
            try:
                answer = ask("the queue", send, QueueUrl=self._url, Entries=left)
            except StoreError as error:
                return [jobs[int(entry["Id"])] for entry in left], str(error)
            refused = {failure["Id"] for failure in answer.get("Failed", [])}
            for entry in left:
                if entry["Id"] not in refused:
                    self._remember(jobs[int(entry["Id"])])
            left = [entry for entry in left if entry["Id"] in refused]
            if not left:
                break
            if pause is not None:
                time.sleep(pause)
        return [jobs[int(entry["Id"])] for entry in left], "the queue refused some messages"


def _tens(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    left = iter(items)
    while batch := list(islice(left, _BATCH)):
        yield batch
