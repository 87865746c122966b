"""Keep the worklist in DynamoDB: one item for each row, and a feed of changes.

Every change is one conditional write, so that handlers at work on the same key cannot undo each other. Where
the change depends on the row, the row is read first, and read again when the write finds another state. A
deleted row leaves a tombstone for a week, for readers of the feed.

docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.ConditionExpressions.html
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.aws.errors import AwsRefused, ask
from pipeline.errors import IndexNotReady, StoreError
from pipeline.names import UNUSABLE, inbox_key
from pipeline.records import Reviewed, Row, SourceState
from pipeline.worklist.rows import FROM_REVIEWS, FROM_VERDICT, row_from, stored_value, text

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import QueryOutputTypeDef, ScanOutputTypeDef

_T = TypeVar("_T")
TOMBSTONE_LIFE = timedelta(days=7)
_FEED = "rows"  # partition of the index `feed`; above 1,000 writes a second it would have to be split
_NAME = re.compile(r"#(\w+)")
_AT_ONCE = 16  # parallel requests of `wait`
_SEGMENTS = 8  # parts of the table that `part` reads at a time; a page of each needs about 5 MB
# Names with # are attributes, names with : values; some names are DynamoDB's reserved words.
_LIVES = "attribute_exists(#key) AND attribute_not_exists(#gone)"
_VERDICT, _NO_VERDICT = "attribute_exists(#status)", "attribute_not_exists(#status)"
_UNMET = "ConditionalCheckFailedException"
_WAIT = ("waiting_since", "asked_since", "at_work")
_SEEN = "#waiting_since <= :since"


@dataclass(frozen=True)
class Changed:
    """Describe an entry of the feed: the row of a key now, or None when it was deleted."""

    at: datetime
    key: str
    row: Row | None


class DynamoIndex:
    """Keep the index in the table `table`, through a low-level boto3 client; see `ports.Index`."""

    def __init__(self, table: str, client: "DynamoDBClient") -> None:
        self._table, self._client = table, client

    def wait(self, keys: Iterable[str], since: datetime, at_work: bool = False) -> None:
        """Note that these keys wait to be judged, or that a host works on them."""

        def note(key: str) -> None:
            now = {"waiting_since": text(since), "at_work": at_work}
            self._update(key, now, first={"asked_since": text(since)})

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(note, keys))

    def settle(self, key: str, since: datetime) -> None:
        """End the wait noted at `since`, which left the verdict unchanged; a later note stays."""
        seen, done = {"since": text(since)}, False
        while not done and (row := self.get(key)) and row.waiting_since and row.waiting_since <= since:
            if row.status:
                done = self._update(key, {}, _WAIT, f"{_SEEN} AND {_VERDICT}", seen)
            else:
                done = self._bury(key, f"{_SEEN} AND {_NO_VERDICT}", seen)

    def record(self, row: Row) -> None:
        """Store the content of a verdict; end any wait that began before it."""
        values = {name: stored_value(getattr(row, name)) for name in FROM_VERDICT}
        said = {name: value for name, value in values.items() if value is not None}
        unsaid = [name for name in FROM_VERDICT if name not in said]
        seen = {"since": said["started_at"]}
        condition = f"attribute_not_exists(#waiting_since) OR {_SEEN}"
        if not self._update(row.key, said, [*unsaid, *_WAIT], condition, seen):
            self._update(row.key, said, unsaid)

    def review(self, key: str, found: Reviewed) -> None:
        """Store the summary of the reviews of a verdict; what is the same already is not written."""
        row = self.get(key)
        if row is None or all(getattr(row, name) == getattr(found, name) for name in FROM_REVIEWS):
            return
        values = {name: stored_value(getattr(found, name)) for name in FROM_REVIEWS}
        said = {name: value for name, value in values.items() if value}
        self._update(key, said, [name for name in FROM_REVIEWS if name not in said], _VERDICT)

    def mark(self, key: str, source: SourceState) -> None:
        """Note whether the source still exists; without source and verdict there is no row."""
        done = False
        while not done and (row := self.get(key)):
            if source == "deleted" and not row.status:
                done = self._bury(key, f"{_LIVES} AND {_NO_VERDICT}")
            elif row.source != source:
                same = _VERDICT if row.status else _NO_VERDICT
                done = self._update(key, {"source": source}, [], f"{_LIVES} AND {same}")
            else:
                return

    def remove(self, verdict_key: str) -> None:
        """Remove the verdict; its row goes too, unless it waits for another."""
        same, verdict = "#verdict_key = :verdict", {"verdict": verdict_key}
        for key in self._keys_of(verdict_key):
            done = False
            while not done and (row := self.get(key)) and row.verdict_key == verdict_key:
                if row.waiting_since:
                    waits = f"{same} AND attribute_exists(#waiting_since)"
                    done = self._update(key, {}, (*FROM_VERDICT, *FROM_REVIEWS), waits, verdict)
                else:
                    done = self._bury(key, f"{same} AND attribute_not_exists(#waiting_since)", verdict)

    def verdict_keys(self) -> list[str]:
        """Return the verdict keys of all rows."""
        return [row.verdict_key for row in self.all() if row.verdict_key]

    def filling(self) -> AbstractContextManager[None]:
        """Do nothing: a table is neither damaged nor lost."""
        return nullcontext()

    def erase_traces(self) -> None:
        """Do nothing: only a tombstone is left, which names its key for a week, for readers of the feed."""

    def get(self, key: str) -> Row | None:
        """Return the row of a key, or None."""
        request = {"Key": {"key": {"S": key}}, "ConsistentRead": True}
        item = self._ask(self._client.get_item, **request).get("Item")
        return _changed(item).row if item else None

    def all(self) -> Iterator[Row]:
        """Yield all rows, in no particular order."""
        for item in self._pages(self._client.scan, ConsistentRead=True):
            if row := _changed(item).row:
                yield row

    def part(self, after: str, end: str) -> Iterator[Row]:
        """Yield the rows between two keys, see `ports.Index`; the table is read in parallel.

        The table leaves out the others, so that they take no time here.
        """
        bounds = {":after": ("#key > :after", after), ":end": ("#key <= :end", end)}
        given = {name: bound for name, bound in bounds.items() if bound[1]}
        request: dict[str, Any] = {"ConsistentRead": True, "TotalSegments": _SEGMENTS}
        if given:
            condition = " AND ".join(condition for condition, _ in given.values())
            values = {name: {"S": value} for name, (_, value) in given.items()}
            if not after:
                condition += " OR begins_with(verdict_key, :hashed)"
                values[":hashed"] = {"S": UNUSABLE}
            request["FilterExpression"] = condition
            request["ExpressionAttributeNames"] = {"#key": "key"}
            request["ExpressionAttributeValues"] = values

        def read(place: Mapping[str, Any]) -> "ScanOutputTypeDef":
            return self._ask(self._client.scan, **request, **place)

        places: list[dict[str, Any]] = [{"Segment": number} for number in range(_SEGMENTS)]
        with ThreadPoolExecutor(_SEGMENTS) as pool:
            while places:
                pages = list(pool.map(read, places))  # one of each segment: few are in memory
                for page in pages:
                    yield from (row for item in page["Items"] if (row := _changed(item).row))
                places = [
                    {"Segment": place["Segment"], "ExclusiveStartKey": page["LastEvaluatedKey"]}
                    for place, page in zip(places, pages, strict=True)
                    if "LastEvaluatedKey" in page
                ]

    def changes(self, after: datetime) -> Iterator[Changed]:
        """Yield the changes since a time, in that order: the last state of each key that changed.

        The feed is eventually consistent, and dated by the clocks of the writers: read the last minute again.
        """
        request = {
            "IndexName": "feed",
            "KeyConditionExpression": "feed = :feed AND changed_at > :after",
            "ExpressionAttributeValues": {":feed": {"S": _FEED}, ":after": {"S": text(after)}},
        }
        return map(_changed, self._pages(self._client.query, **request))

    def latest_changes(self, before: datetime, count: int) -> Iterator[Changed]:
        """Yield the changes before a time, the latest first, `count` per request."""
        request = {
            "IndexName": "feed",
            "KeyConditionExpression": "feed = :feed AND changed_at < :before",
            "ExpressionAttributeValues": {":feed": {"S": _FEED}, ":before": {"S": text(before)}},
            "ScanIndexForward": False,
            "Limit": count,
        }
        return map(_changed, self._pages(self._client.query, **request))

    def _keys_of(self, verdict_key: str) -> list[str]:
        if not verdict_key.startswith(UNUSABLE):
            return [inbox_key(verdict_key)]
        return [row.key for row in self.all() if row.verdict_key == verdict_key]

    def _update(
        self,
        key: str,
        sets: Mapping[str, object],
        removes: Iterable[str] = (),
        condition: str = "",
        values: Mapping[str, object] | None = None,
        first: Mapping[str, object] | None = None,
    ) -> bool:
        """Change a row, create it, or replace its tombstone; return False when the condition does not hold.

        Fields in `first` are set only where they are missing.
        """
        known = {**sets, "feed": _FEED, "changed_at": text(datetime.now(UTC))}
        unset = {**(first or {}), **({} if "source" in sets else {"source": "present"})}
        given = {**(values or {}), **known, **unset}
        assignments = [f"#{name} = :{name}" for name in known]
        assignments += [f"#{name} = if_not_exists(#{name}, :{name})" for name in unset]
        gone = ", ".join(f"#{name}" for name in (*removes, "gone", "expires"))
        change = f"SET {', '.join(assignments)} REMOVE {gone}"
        request = {"Key": {"key": {"S": key}}, "UpdateExpression": change}
        return self._write(self._client.update_item, request, change, condition, given)

    def _bury(self, key: str, condition: str, values: Mapping[str, object] | None = None) -> bool:
        """Put a tombstone in the place of a row; return False when the condition does not hold."""
        now = datetime.now(UTC)
        item = {
            "key": {"S": key},
            "gone": {"BOOL": True},
            "expires": {"N": str(int((now + TOMBSTONE_LIFE).timestamp()))},  # DynamoDB's time to live
            "feed": {"S": _FEED},
            "changed_at": {"S": text(now)},
        }
        return self._write(self._client.put_item, {"Item": item}, "", condition, values or {})

    def _write(
        self,
        call: Callable[..., object],
        request: dict[str, Any],
        change: str,
        condition: str,
        values: Mapping[str, object],
    ) -> bool:
        if condition:
            request["ConditionExpression"] = condition
        if names := set(_NAME.findall(f"{change} {condition}")):
            request["ExpressionAttributeNames"] = {f"#{name}": name for name in names}
        if values:
            request["ExpressionAttributeValues"] = {
                f":{name}": _typed(value) for name, value in values.items()
            }
        try:
            self._ask(call, **request)
        except AwsRefused as error:
            if error.code != _UNMET:
                raise
            return False
        return True

    def _pages(
        self, call: "Callable[..., ScanOutputTypeDef | QueryOutputTypeDef]", **request: Any
    ) -> Iterator[Mapping[str, Any]]:
        while True:
            page = self._ask(call, **request)
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _ask(self, call: Callable[..., _T], **request: Any) -> _T:
        try:
            return ask("the worklist's table", call, TableName=self._table, **request)
        except StoreError as error:
            if isinstance(error, AwsRefused) and error.code == _UNMET:
                raise
            raise IndexNotReady(str(error)) from error


def _typed(value: object) -> dict[str, object]:
    if isinstance(value, bool):
        return {"BOOL": value}
    return {"N": repr(value)} if isinstance(value, float) else {"S": str(value)}


def _plain(value: Mapping[str, Any]) -> object:
    return float(value["N"]) if "N" in value else value.get("S", value.get("BOOL"))


def _changed(item: Mapping[str, Mapping[str, Any]]) -> Changed:
    values = {name: _plain(value) for name, value in item.items()}
    row = None if values.get("gone") else row_from(values)
    return Changed(datetime.fromisoformat(str(values["changed_at"])), str(values["key"]), row)
