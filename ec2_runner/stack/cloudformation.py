"""Create, update and delete a CloudFormation stack by change sets, and wait for each to end.

An operation goes on in AWS when this process ends. The same command, run again, waits for its end first.

docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-changesets.html
docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html (the statuses)
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.aws.errors import AwsRefused, ask, translated
from pipeline.errors import StackError, StackGoesOn, StoreError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import (
        ParameterTypeDef,
        ResourceChangeTypeDef,
        StackEventTypeDef,
        StackTypeDef,
    )

Say = Callable[[str], None]

_POLL_SECONDS = 4.0
_DEADLINE_SECONDS = 45 * 60.0
_SILENCE_SECONDS = 5 * 60.0  # AWS may be out of reach for so long while an operation is watched
_BEGIN_SECONDS = 60.0  # until the first event of an operation that AWS accepted
_NEVER_MADE = "REVIEW_IN_PROGRESS"  # a change set was created, but never executed
_ROLLBACK_FAILED = "UPDATE_ROLLBACK_FAILED"
_TO_BE_DELETED = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
_FINE = (
    *("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"),
    *("IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"),
)
_PASSING = {
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "InternalFailure",
}
_NO_STACK = "ValidationError"  # AWS's code for a stack that does not exist
_UNCHANGED = ("didn't contain changes", "No updates are to be performed")  # AWS has no code for it


@dataclass(frozen=True)
class StackState:
    """Describe a stack as CloudFormation does."""

    id: str
    status: str
    parameters: dict[str, str]
    outputs: dict[str, str]

    @property
    def is_busy(self) -> bool:
        """Return whether an operation runs on the stack."""
        return self.status.endswith("_IN_PROGRESS")

    @property
    def is_sound(self) -> bool:
        """Return whether the stack is as its last successful operation made it."""
        return self.status in _FINE

    @property
    def was_never_made(self) -> bool:
        """Return whether its creation or deletion failed, so that `ready` deletes what is left of it."""
        return self.status in _TO_BE_DELETED


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

    def rested(self) -> StackState | None:
        """Return the stack once no operation runs on it; None where there is none. Changes nothing."""
        state = self.read()
        if state and state.is_busy:
            self._say(f"waiting: the stack is in {state.status}")
            state = self._settled(state.id)
        return None if state is None or state.status == "DELETE_COMPLETE" else state

    def ready(self) -> StackState | None:
        """Return the stack once it can be updated; None where there is none any more.

        A stack whose creation failed is deleted first; a rollback that failed is continued.
        """
        state = self.rested()
        if state is None:
            return None
        if state.was_never_made:
            self._say(f"deleting the stack that is in {state.status}")
            self.delete()
            return None
        if state.status == _ROLLBACK_FAILED:
            state = self._rolled_back(state)
        if not state.is_sound:
            raise StackError(
                f"the stack {self.name} is in {state.status}: end that in the CloudFormation console"
                " (Stack actions), then run this again"
            )
        return state

    def apply(self, template_url: str, changes: Mapping[str, str]) -> StackState:
        """Create or update the stack; parameters that are not in `changes` keep their values.

        Raises StackGoesOn where the end of the operation was not seen.
        """
        before = self.ready()
        change_set = self._change_set_name()
        self._create_change_set(change_set, {"TemplateURL": template_url}, changes, before)
        if self._has_changes(change_set):
            seen = self._events_of(self.name)
            with self._going_on():
                self._execute(change_set)
                state = self._settled(self.name, set(seen))
            self._check_applied(state, seen)
        else:
            self._client.delete_change_set(StackName=self.name, ChangeSetName=change_set)
            self._say("the stack is up to date")
        state = self.read()
        if state is None:
            raise StackError(f"the stack {self.name} was deleted while it was being changed; run this again")
        return state

    def planned_changes(self, template: str, changes: Mapping[str, str]) -> "list[ResourceChangeTypeDef]":
        """Return what applying the text of a template would change; leave nothing behind.

        The stack, if there is one, has to be at rest and able to be updated.
        """
        found, before, name = self._described(self.name), self.read(), self._change_set_name()
        is_new = found is None or found.status == "DELETE_COMPLETE"
        is_made = True  # also where the answer was lost
        try:
            with translated("CloudFormation"):
                self._create_change_set(name, {"TemplateBody": template}, changes, before)
        except AwsRefused:
            is_made = False
            raise
        else:
            return self._changes(name) if self._has_changes(name) else []
        finally:
            if is_made:
                self._discard(name, is_new)

    def delete(self) -> None:
        """Delete the stack and wait until it is gone; raise StackError with the reason if it stays."""
        state = self._described(self.name)
        if state and state.is_busy and state.status not in (_NEVER_MADE, "DELETE_IN_PROGRESS"):
            self._say(f"waiting: the stack is in {state.status}")
            state = self._settled(state.id)
        if state is None or state.status == "DELETE_COMPLETE":
            return
        seen = self._events_of(state.id)
        with self._going_on():
            self._client.delete_stack(StackName=state.id)
            after = self._settled(state.id, set(seen))
        if after and after.status != "DELETE_COMPLETE":
            raise StackError(
                f"the stack is in {after.status}: {self._first_failure(state.id, seen)}."
                " Remove what is in the way, then run this again"
            )

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Raise StackGoesOn where a `with` block that starts an operation ends before it does."""
        try:
            yield
        except StackError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            said = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
            raise StackGoesOn(
                f"{said}. CloudFormation goes on with the stack {self.name}: run the same command again, and"
                " it waits for the end"
            ) from error

    def _rolled_back(self, state: StackState) -> StackState:
        """Continue a rollback that failed; raise StackError with the reason if it fails again."""
        self._say("continuing the rollback that failed")
        seen = self._events_of(state.id)
        with self._going_on():
            self._client.continue_update_rollback(StackName=state.id)
            after = self._settled(state.id, set(seen))
        if after is None or not after.is_sound:
            raise StackError(
                f"the rollback of the stack {self.name} failed again: {self._first_failure(state.id, seen)}."
                " Fix that, or skip that resource in the CloudFormation console (Stack actions, Continue"
                " update rollback); then run this again"
            )
        return after

    def _change_set_name(self) -> str:
        return f"cxr-{int(self._now() * 1000)}"

    def _create_change_set(
        self, name: str, template: dict[str, Any], changes: Mapping[str, str], before: StackState | None
    ) -> None:
        """Create a change set of a template, which is given by `TemplateURL` or `TemplateBody`."""
        self._client.create_change_set(
            StackName=self.name,
            ChangeSetName=name,
            ChangeSetType="UPDATE" if before else "CREATE",
            Parameters=self._parameters(template, changes, before),
            Capabilities=["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
            **template,
        )

    def _execute(self, change_set: str) -> None:
        run = self._client.execute_change_set
        try:
            ask("CloudFormation", run, StackName=self.name, ChangeSetName=change_set)
        except AwsRefused as error:
            raise StackError(
                f"CloudFormation did not begin the update: {error.code}: {error.reason}"
            ) from error

    def _discard(self, change_set: str, is_new: bool) -> None:
        """Delete a change set, and the empty stack that a new one made."""
        try:
            with translated("CloudFormation"):
                self._client.delete_change_set(StackName=self.name, ChangeSetName=change_set)
                state = self._described(self.name) if is_new else None
                if state and state.status == _NEVER_MADE:
                    self._client.delete_stack(StackName=state.id)
        except StoreError as error:
            raise StackError(
                f"{error}: the change set {change_set} of the stack {self.name} is left over, and harmless;"
                " delete it in the CloudFormation console"
            ) from error

    def _changes(self, change_set: str) -> "list[ResourceChangeTypeDef]":
        request: dict[str, Any] = {"StackName": self.name, "ChangeSetName": change_set}
        found: list[ResourceChangeTypeDef] = []
        while True:
            page = self._client.describe_change_set(**request)
            found += [item["ResourceChange"] for item in page["Changes"] if "ResourceChange" in item]
            if not page.get("NextToken"):
                return found
            request["NextToken"] = page["NextToken"]

    def _parameters(
        self, template: dict[str, Any], changes: Mapping[str, str], before: StackState | None
    ) -> "list[ParameterTypeDef]":
        kept = set(before.parameters) - set(changes) if before else set()
        if kept:  # keep only those that the new template has
            summary = self._client.get_template_summary(**template)
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

    def _check_applied(self, state: StackState | None, seen: set[str]) -> None:
        if state is None or state.status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            status = state.status if state else "DELETE_COMPLETE"
            raise StackError(
                f"the stack is in {status}: {self._first_failure(self.name, seen)}."
                " Fix that, then run this again; no clean-up is needed"
            )

    def _settled(self, stack: str, seen: set[str] | None = None) -> StackState | None:
        """Wait until no operation runs on a stack, and report its new events.

        With `seen`, an operation was just started: these are the events before it.
        """
        has_begun, begun = seen is None, self._now()
        seen = self._events_of(stack) if seen is None else seen
        silent_since: float | None = None
        for _ in self._until_deadline():
            try:
                state, new = self._described(stack), self._new_events(stack, seen)
            except StoreError as error:
                if isinstance(error, AwsRefused) and error.code not in _PASSING:
                    raise
                if silent_since is None:
                    silent_since = self._now()
                    self._say(f"  {error}; trying again")
                if self._now() - silent_since > _SILENCE_SECONDS:
                    raise
                continue
            silent_since = None
            if state is None:
                return None
            for event in new:
                seen.add(event["EventId"])
                self._say(f"  {event['LogicalResourceId']}: {event['ResourceStatus']}")
                has_begun = True
            is_late = self._now() - begun > _BEGIN_SECONDS
            if not state.is_busy and (has_begun or is_late or state.status == "DELETE_COMPLETE"):
                return state
        raise StackGoesOn(f"the stack {self.name} is still at work; wait, then run this again")

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
