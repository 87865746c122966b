"""Record which instance is the host: one item of a DynamoDB table, on which all handlers agree.

A *generation* is one try to have a host. It fixes everything about its launch (the token that makes it happen
once, subnet and type), so handlers that launch the same generation launch one instance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.aws.errors import AwsRefused, ask
from pipeline.errors import HostNotReady, StoreError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_T = TypeVar("_T")
_ID = {"id": {"S": "host"}}
_OF_THE_HOST = ("claimed_until", "launched_at", "unreachable_since", "unreachable_at", "suspect_since")


@dataclass(frozen=True)
class Holding:
    """Hold the item. Times are seconds since 1970; zero stands for none."""

    generation: int = 0
    instance_id: str | None = None
    claimed_until: float = 0  # a handler is launching this generation
    launched_at: float = 0
    unreachable_since: float = 0  # since when nobody could reach it although it runs
    unreachable_at: float = 0  # the last failure to reach it
    suspect_since: float = 0  # since when the reaper considers it idle


class Lease:
    """Read and change the lease in the table `table`, through a low-level boto3 DynamoDB client."""

    def __init__(self, table: str, client: "DynamoDBClient") -> None:
        self._table, self._client = table, client

    def read(self) -> Holding:
        """Return the item as it is now."""
        answer = self._ask(self._client.get_item, Key=_ID, ConsistentRead=True)
        item = answer.get("Item", {}) if answer else {}
        numbers = {name: float(item[name]["N"]) for name in ("generation", *_OF_THE_HOST) if name in item}
        generation = int(numbers.pop("generation", 0))
        return Holding(generation, item.get("instance_id", {}).get("S"), **numbers)

    def begin(self, generation: int) -> None:
        """Create the item with its first generation, unless it exists."""
        self._update("SET generation = :to", "attribute_not_exists(generation)", to=generation)

    def claim(self, generation: int, now: float, until: float) -> bool:
        """Become the one who launches this generation; False when another is at it, or it has its host."""
        free = "attribute_not_exists(claimed_until) OR claimed_until < :now"
        condition = f"generation = :g AND attribute_not_exists(instance_id) AND ({free})"
        return self._update("SET claimed_until = :until", condition, g=generation, now=now, until=until)

    def hold(self, generation: int, instance_id: str, now: float) -> bool:
        """Record the instance as the host of this generation; return False when the generation is over."""
        change = "SET instance_id = :i, launched_at = :now REMOVE claimed_until"
        return self._update(change, "generation = :g", g=generation, i=instance_id, now=now)

    def retire(self, generation: int) -> bool:
        """End this generation and begin the next; return False when another handler did so already."""
        change = f"SET generation = :next REMOVE instance_id, {', '.join(_OF_THE_HOST)}"
        return self._update(change, "generation = :g", g=generation, next=generation + 1)

    def note_unreachable(self, instance_id: str, since: float, now: float) -> None:
        """Note that the host could not be reached now, nor at any try since `since`."""
        change = "SET unreachable_since = :since, unreachable_at = :now"
        self._update(change, "instance_id = :i", i=instance_id, since=since, now=now)

    def clear_unreachable(self, instance_id: str) -> None:
        """Note that the host was reached."""
        self._update("REMOVE unreachable_since, unreachable_at", "instance_id = :i", i=instance_id)

    def note_suspect(self, instance_id: str, since: float) -> None:
        """Note that the reaper takes the host for idle since `since`; an earlier note stays."""
        condition = "instance_id = :i AND attribute_not_exists(suspect_since)"
        self._update("SET suspect_since = :since", condition, i=instance_id, since=since)

    def clear_suspect(self, instance_id: str) -> None:
        """Note that the host has work after all."""
        self._update("REMOVE suspect_since", "instance_id = :i", i=instance_id)

    def _update(self, change: str, condition: str, **values: float | str) -> bool:
        typed = {
            f":{name}": {"S": value} if isinstance(value, str) else {"N": repr(value)}
            for name, value in values.items()
        }
        return (
            self._ask(
                self._client.update_item,
                Key=_ID,
                UpdateExpression=change,
                ConditionExpression=condition,
                ExpressionAttributeValues=typed,
            )
            is not None
        )

    def _ask(self, call: Callable[..., _T], **request: Any) -> _T | None:
        """Call DynamoDB; return None when the condition does not hold."""
        try:
            return ask("the lease table", call, TableName=self._table, **request)
        except StoreError as error:
            if isinstance(error, AwsRefused) and error.code == "ConditionalCheckFailedException":
                return None
            raise HostNotReady(str(error)) from error
