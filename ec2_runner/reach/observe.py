"""Observe a stack without changing it: its hosts, their reports, its queues."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ec2_runner.reach.fleet import Fleet, Instance
from ec2_runner.reach.identity import HOSTS, STATUS
from pipeline.aws.errors import ask
from pipeline.aws.names import StackNames
from pipeline.ports import Store
from pipeline.running.service import WorkerStatus

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

_LIMIT = 100_000  # bytes of a host's report
_MEASURED = timedelta(minutes=15)  # an older figure is out of date
_FRESH = timedelta(minutes=2)  # a worker reports twice a minute
_COUNTS: "dict[QueueAttributeNameType, str]" = {
    "ApproximateNumberOfMessages": "waiting",
    "ApproximateNumberOfMessagesNotVisible": "at work",
    "ApproximateNumberOfMessagesDelayed": "to come again",
}


@dataclass(frozen=True)
class Wait:
    """Hold how long a job had waited for a host when that was measured."""

    seconds: float
    at: datetime


class Observer:
    """Look at the stack of the bucket `store`, through boto3 clients of SQS and CloudWatch.

    Raises HostNotReady and StoreError, whose sentences hold no key.
    """

    def __init__(
        self, names: StackNames, fleet: Fleet, store: Store, sqs: "SQSClient", cloudwatch: "CloudWatchClient"
    ) -> None:
        self.names, self._fleet, self._store = names, fleet, store
        self._sqs, self._cloudwatch = sqs, cloudwatch
        self._places: dict[str, str] = {}

    def instances(self) -> list[Instance]:
        """Return the hosts that are not gone, those of the first slot first."""
        return sorted(self._fleet.instances(), key=lambda instance: instance.slot)

    def place(self, instance: Instance) -> str | None:
        """Return the prefix of a host's objects; None before it wrote any."""
        if instance.id not in self._places:
            mark = f":{instance.id}/"
            found = next((info.key for info in self._store.list(HOSTS) if mark in info.key), None)
            if found is None:
                return None
            self._places[instance.id] = found[: found.index(mark)] + mark
        return self._places[instance.id]

    def status(self, instance: Instance) -> WorkerStatus | None:
        """Return the last report of a host's worker; None where there is none that can be read."""
        place = self.place(instance)
        found = self._store.get(place + STATUS, _LIMIT) if place else None
        try:
            return WorkerStatus.model_validate_json(found[1], extra="ignore") if found else None
        except ValidationError:
            return None

    def depth(self, queue: str) -> dict[str, int]:
        """Return about how many messages a queue holds, by what becomes of them."""
        url = ask("the queue", self._sqs.get_queue_url, QueueName=queue)["QueueUrl"]
        look = self._sqs.get_queue_attributes
        found = ask("the queue", look, QueueUrl=url, AttributeNames=list(_COUNTS))["Attributes"]
        return {word: int(found[name]) for name, word in _COUNTS.items()}

    def rates(self) -> list[float]:
        """Return how many images each running host judged in the last minute, where it has said so lately."""
        said = (self.status(one) for one in self.instances() if one.state == "running")
        now = datetime.now(UTC)
        return [float(status.jobs_a_minute) for status in said if status and now - status.at < _FRESH]

    def wait(self, now: datetime) -> Wait | None:
        """Return the longest wait for a host, as last measured; None where there was none lately.

        It uses our own metric, because SQS leaves out messages that it is to deliver later.
        """
        found = ask(
            "CloudWatch",
            self._cloudwatch.get_metric_statistics,
            Namespace="CXRInbox",
            MetricName="OldestWaitingSeconds",
            Dimensions=[{"Name": "service", "Value": self.names.stack}],
            StartTime=now - _MEASURED,
            EndTime=now,
            Period=60,
            Statistics=["Maximum"],
        )
        points = sorted(found["Datapoints"], key=lambda point: point["Timestamp"])
        return Wait(points[-1]["Maximum"], points[-1]["Timestamp"].astimezone(UTC)) if points else None
