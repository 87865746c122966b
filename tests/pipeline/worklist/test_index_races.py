"""Two concurrent operations on one DynamoDB row have the result of one order."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import product
from typing import Any

import pytest

from pipeline.ports import Index
from pipeline.records import Row
from pipeline.worklist.dynamodb import DynamoIndex
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.indexes import DONE, KEY, LATER, VERDICT

NEWER = LATER + timedelta(seconds=1)
OPERATIONS: dict[str, Callable[[Index], None]] = {
    "wait": lambda index: index.wait([KEY], NEWER),
    "settle": lambda index: index.settle(KEY, NEWER),
    "record": lambda index: index.record(replace(DONE, etag="e2")),
    "deleted": lambda index: index.mark(KEY, "deleted"),
    "present": lambda index: index.mark(KEY, "present"),
    "remove": lambda index: index.remove(VERDICT),
}
BEFORE: dict[str, list[Callable[[Index], None]]] = {
    "waiting": [lambda index: index.wait([KEY], LATER)],
    "done and waiting": [lambda index: index.record(DONE), lambda index: index.wait([KEY], LATER)],
    "deleted and waiting": [
        lambda index: index.record(DONE),
        lambda index: index.mark(KEY, "deleted"),
        lambda index: index.wait([KEY], LATER),
    ],
}


@pytest.mark.parametrize("before", BEFORE)
def test_of_two_at_once_it_is_as_if_one_came_first(
    before: str, index: SqliteIndex, dynamo: DynamoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run each operation whole between any two requests of each other operation."""
    one_by_one = {names: after(index, before, *names) for names in product(OPERATIONS, OPERATIONS)}
    for first, second in one_by_one:
        orders = one_by_one[first, second], one_by_one[second, first]
        for turn in range(3):
            interrupted = Interrupted(dynamo, turn, OPERATIONS[second])
            with monkeypatch.context() as patch:
                begin = partial(patch.setattr, dynamo, "_ask", interrupted)
                found = after(dynamo, before, first, begin=begin)
            if not interrupted.is_over:
                break  # it has no more requests than that
            assert found in orders, (first, second, turn)


def after(index: Index, before: str, *names: str, begin: Callable[[], None] = lambda: None) -> Row | None:
    """Return a row after these operations on its earlier state, then remove it."""
    for operation in BEFORE[before]:
        operation(index)
    begin()
    for name in names:
        OPERATIONS[name](index)
    found = index.get(KEY)
    if isinstance(index, DynamoIndex):
        index._client.delete_item(TableName="s-index", Key={"key": {"S": KEY}})
    elif isinstance(index, SqliteIndex):
        index.drop(KEY)
    return replace(found, change=0) if found else None


class Interrupted:
    """Run another operation before one of the requests of an index."""

    def __init__(self, index: DynamoIndex, turn: int, operation: Callable[[Index], None]) -> None:
        self._ask, self._turn = index._ask, turn
        self._other = DynamoIndex("s-index", index._client)
        self._operation, self._requests = operation, 0
        self.is_over = False

    def __call__(self, *request: Any, **more: Any) -> Any:
        if self._requests == self._turn and not self.is_over:
            self.is_over = True
            self._operation(self._other)
        self._requests += 1
        return self._ask(*request, **more)
