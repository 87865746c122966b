"""Create, update and delete a CloudFormation stack by change sets, and wait for each to end.

docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-changesets.html
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.aws.errors import AwsRefused, ask, translated
from pipeline.errors import StackError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import ParameterTypeDef, StackEventTypeDef, StackTypeDef

Say = Callable[[str], None]

_POLL_SECONDS = 4.0
_DEADLINE_SECONDS = 45 * 60.0
_NEVER_MADE = "REVIEW_IN_PROGRESS"  # a change set was created, but never executed
_TO_BE_DELETED = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
_FINE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE")
_NO_STACK = "ValidationError"  # AWS's code for a stack that does not exist
_UNCHANGED = ("didn't contain changes", "No updates are to be performed")  # AWS has no code for it


@dataclass(frozen=True)
class StackState:
    """Describe a stack as CloudFormation does."""

    id: str
    status: str
    parameters: dict[str, str]
    outputs: dict[str, str]


class CloudFormationStack:
    """Manage the stack `name`, through a CloudFormation client; `say` gets a line for each event."""

    def __init__(
        self,
        name: str,
        client: "CloudFormationClient",
        say: Say,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name, self._client, self._say, self._sleep, self._now = name, client, say, sleep, now

    def read(self) -> StackState | None:
        """Return the stack as it is, or None where there is none."""
        state = self._described(self.name)
        return None if state is None or state.status in (_NEVER_MADE, "DELETE_COMPLETE") else state

    def ready(self) -> StackState | None:
        """Return the stack once no operation runs on it any more; None where there is none.

        A stack whose creation failed is deleted first.
        """
        state = self.read()
        if state and state.status.endswith("_IN_PROGRESS"):
            self._say(f"waiting: the stack is in {state.status}")
            state = self._settled(state.id)
        if state is None or state.status == "DELETE_COMPLETE":
            return None
        if state.status in _TO_BE_DELETED:
            self._say(f"deleting the stack that is in {state.status}")
            self.delete()
            return None
        if state.status not in _FINE:
            raise StackError(
                f"the stack {self.name} is in {state.status}: continue its rollback in the CloudFormation"
                " console, then run this again"
            )
        return state

    def apply(self, template_url: str, changes: Mapping[str, str]) -> StackState:
        """Create or update the stack; parameters that are not in `changes` keep their values."""
        before = self.ready()
        change_set = f"cxr-{int(self._now() * 1000)}"
        self._client.create_change_set(
            StackName=self.name,
            ChangeSetName=change_set,
            ChangeSetType="UPDATE" if before else "CREATE",
            TemplateURL=template_url,
            Parameters=self._parameters(template_url, changes, before),
            Capabilities=["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
        if self._has_changes(change_set):
            seen = self._events_of(self.name)
            self._client.execute_change_set(StackName=self.name, ChangeSetName=change_set)
            self._wait_applied(seen)
        else:
            self._client.delete_change_set(StackName=self.name, ChangeSetName=change_set)
            self._say("the stack is up to date")
        state = self.read()
        if state is None:
            raise StackError(f"the stack {self.name} was deleted while it was being changed; run this again")
        return state

    def delete(self) -> None:
        """Delete the stack and wait until it is gone; raise StackError with the reason if it stays."""
        state = self.read()
        if state is None:
            return
        seen = self._events_of(state.id)
        self._client.delete_stack(StackName=state.id)
        after = self._settled(state.id, set(seen))
        if after and after.status != "DELETE_COMPLETE":
            raise StackError(
                f"the stack is in {after.status}: {self._first_failure(state.id, seen)}."
                " Remove what is in the way, then run this again"
            )

    def _parameters(
        self, template_url: str, changes: Mapping[str, str], before: StackState | None
    ) -> "list[ParameterTypeDef]":
        kept = set(before.parameters) - set(changes) if before else set()
        if kept:  # keep only those that the new template has
            summary = self._client.get_template_summary(TemplateURL=template_url)
            kept &= {parameter["ParameterKey"] for parameter in summary["Parameters"]}
        given: list[ParameterTypeDef] = [
            {"ParameterKey": name, "ParameterValue": value} for name, value in changes.items()
        ]
        given += [{"ParameterKey": name, "UsePreviousValue": True} for name in sorted(kept)]
        return given

    def _has_changes(self, change_set: str) -> bool:
        for _ in self._until_deadline():
            found = self._client.describe_change_set(StackName=self.name, ChangeSetName=change_set)
            reason = found.get("StatusReason", "")
            if found["Status"] == "CREATE_COMPLETE":
                return True
            if found["Status"] == "FAILED":
                if any(word in reason for word in _UNCHANGED):
                    return False
                raise StackError(f"CloudFormation rejected the template: {reason}")
        raise StackError("CloudFormation did not finish the change set; run this again")

    def _wait_applied(self, seen: set[str]) -> None:
        state = self._settled(self.name, set(seen))
        if state is None or state.status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            status = state.status if state else "DELETE_COMPLETE"
            raise StackError(
                f"the stack is in {status}: {self._first_failure(self.name, seen)}."
                " Fix that, then run this again; no clean-up is needed"
            )

    def _settled(self, stack: str, seen: set[str] | None = None) -> StackState | None:
        """Wait until no operation runs on a stack, and report its new events."""
        seen = self._events_of(stack) if seen is None else seen
        for _ in self._until_deadline():
            state = self._described(stack)
            if state is None:
                return None
            for event in self._new_events(stack, seen):
                seen.add(event["EventId"])
                self._say(f"  {event['LogicalResourceId']}: {event['ResourceStatus']}")
            if not state.status.endswith("_IN_PROGRESS"):
                return state
        raise StackError(f"the stack {self.name} is still at work; wait, then run this again")

    def _described(self, stack: str) -> StackState | None:
        try:
            (found,) = ask("CloudFormation", self._client.describe_stacks, StackName=stack)["Stacks"]
        except AwsRefused as error:
            if error.code == _NO_STACK:
                return None
            raise
        return _state(found)

    def _until_deadline(self) -> Iterator[None]:
        until = self._now() + _DEADLINE_SECONDS
        while self._now() < until:
            yield
            self._sleep(_POLL_SECONDS)

    def _events_of(self, stack: str) -> set[str]:
        return {event["EventId"] for event in self._new_events(stack, set())}

    def _new_events(self, stack: str, seen: set[str]) -> "list[StackEventTypeDef]":
        """Return the events that were not seen yet, oldest first."""
        found: list[StackEventTypeDef] = []
        pages = self._client.get_paginator("describe_stack_events").paginate(StackName=stack)
        try:
            with translated("CloudFormation"):
                for page in pages:
                    new = [event for event in page["StackEvents"] if event["EventId"] not in seen]
                    found += new
                    if len(new) < len(page["StackEvents"]):
                        break  # all others are older
        except AwsRefused as error:
            if error.code != _NO_STACK:
                raise
        return found[::-1]

    def _first_failure(self, stack: str, seen: set[str]) -> str:
        """Return the first failure; the later ones were cancelled because of it."""
        for event in self._new_events(stack, seen):
            if event["ResourceStatus"].endswith("_FAILED"):
                return f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', 'no reason given')}"
        return "its events give no reason"


def _state(found: "StackTypeDef") -> StackState:
    return StackState(
        found["StackId"],
        found["StackStatus"],
        {item["ParameterKey"]: item.get("ParameterValue", "") for item in found.get("Parameters", [])},
        {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])},
    )
