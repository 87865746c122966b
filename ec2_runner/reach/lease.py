"""Record which instance is the host of a slot: one item of a DynamoDB table, on which all handlers agree.

A *generation* is one try to have a host. It fixes everything about its launch (the token that makes it happen
once, subnet and type), so handlers that launch the same generation launch one instance. The *attempt* chooses
subnet and type; it changes only together with the generation, or while the generation has its instance.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.aws.errors import AwsRefused, ask
from pipeline.errors import HostNotReady, StoreError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_T = TypeVar("_T")
_ID = "host"  # of the first slot; the others add their number
_WHOLE = ("generation", "attempt", "losses", "starts")
_OF_THE_HOST = (
    *("instance_id", "claimed_until", "launched_at", "unreachable_since", "unreachable_at", "suspect_since"),
    *("starts", "started_at", "passing", "passing_since"),
)
_UNTIL_REACHED = (
    *("unreachable_since", "unreachable_at", "starts", "started_at", "passing", "passing_since"),
    *("attempt", "losses", "launch_after", "ended_by"),
)


@dataclass(frozen=True)
class Holding:
    """Hold the item; an item of an older release lacks some. Times are seconds since 1970; zero is none."""

    generation: int = 0
    instance_id: str | None = None
    claimed_until: float = 0  # a handler is launching this generation
    launched_at: float = 0
    unreachable_since: float = 0  # since when nobody could reach it although it runs
    unreachable_at: float = 0  # the last failure to reach it
    suspect_since: float = 0  # since when the reaper considers it idle
    starts: int = 0  # starts of this host that EC2 accepted since somebody reached it
    started_at: float = 0  # the last of them
    passing: str | None = None  # `pending` or `stopping`, as last seen
    passing_since: float = 0
    attempt: int = 0  # launches and starts that found no room since somebody reached a host
    losses: int = 0  # hosts that EC2 or a person ended since then
    launch_after: float = 0  # no launch before
    ended_by: str | None = None  # EC2's code for the last loss
    replaced_id: str | None = None  # the instance given up last, which may still be there

    @property
    def has_history(self) -> bool:
        """Return whether there is anything to forget once the host was reached."""
        return any(getattr(self, name) for name in _UNTIL_REACHED)


class Lease:
    """Read and change the lease of a slot in the table `table`, through a low-level boto3 DynamoDB client."""

    def __init__(self, table: str, client: "DynamoDBClient", slot: int = 1) -> None:
        self._table, self._client, self.slot = table, client, slot
        self._id = {"id": {"S": _ID if slot == 1 else f"{_ID}-{slot}"}}

    def read(self) -> Holding:
        """Return the item as it is now."""
        answer = self._ask(self._client.get_item, Key=self._id, ConsistentRead=True)
        item = answer.get("Item", {}) if answer else {}
        known = {field.name: item[field.name] for field in fields(Holding) if field.name in item}
        return Holding(**{name: _value(name, typed) for name, typed in known.items()})

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

    def retire(self, generation: int, **lasting: float | str) -> bool:
        """End this generation and begin the next, with these fields of the item changed in the same step.

        Returns False when another handler did so already: then nothing changes.
        """
        changes = ", ".join(f"{name} = :{name}" for name in ("generation", *lasting))
        change = f"SET {changes} REMOVE {', '.join(_OF_THE_HOST)}"
        return self._update(change, "generation = :g", g=generation, generation=generation + 1, **lasting)

    def note_unreachable(self, instance_id: str, since: float, now: float) -> None:
        """Note that the host could not be reached now, nor at any try since `since`."""
        change = "SET unreachable_since = :since, unreachable_at = :now"
        self._update(change, "instance_id = :i", i=instance_id, since=since, now=now)

    def note_reached(self, instance_id: str) -> None:
        """Note that the host was reached, which ends all counts of failures."""
        self._update(f"REMOVE {', '.join(_UNTIL_REACHED)}", "instance_id = :i", i=instance_id)

    def note_passing(self, instance_id: str, state: str, now: float) -> None:
        """Note that the host is in a state that should pass, since now unless it was noted already."""
        condition = "instance_id = :i AND (attribute_not_exists(passing) OR passing <> :state)"
        change = "SET passing = :state, passing_since = :now"
        self._update(change, condition, i=instance_id, state=state, now=now)

    def note_start(self, instance_id: str, now: float, before: float) -> None:
        """Count a start that EC2 accepted, unless one was counted after `before`."""
        count = "starts = if_not_exists(starts, :none) + :one"
        condition = "instance_id = :i AND (attribute_not_exists(started_at) OR started_at <= :before)"
        change = f"SET {count}, started_at = :now REMOVE passing, passing_since"
        self._update(change, condition, i=instance_id, now=now, before=before, one=1, none=0)

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
                Key=self._id,
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


def _value(name: str, typed: Any) -> Any:
    """Return a typed value of DynamoDB as the field `name` of the item holds it."""
    if "S" in typed:
        return typed["S"]
    return int(float(typed["N"])) if name in _WHOLE else float(typed["N"])
