"""CloudFormation answers that moto does not give, played by botocore's Stubber."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from ec2_runner.stack.cloudformation import CloudFormationStack
from pipeline.errors import StackError

URL = "https://artifacts.s3.us-east-1.amazonaws.com/template.yaml"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHANGE_SET = {"StackName": "cxr", "ChangeSetName": "cxr-0"}


class Played:
    """Play a stack whose CloudFormation gives the prepared answers in order and is asked nothing else."""

    def __init__(self) -> None:
        client = boto3.client("cloudformation", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        self.stub = Stubber(client)
        self.lines: list[str] = []
        self.clock = 0.0
        self.stack = CloudFormationStack("cxr", client, self.lines.append, self.sleep, lambda: self.clock)

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def status(self, status: str | None, *parameters: str) -> None:
        if status is None:
            self.stub.add_client_error("describe_stacks", "ValidationError")
            return
        stack = {
            "StackName": "cxr",
            "StackId": "arn:cxr/1",
            "StackStatus": status,
            "CreationTime": NOW,
            "Parameters": [{"ParameterKey": name, "ParameterValue": "old"} for name in parameters],
        }
        self.stub.add_response("describe_stacks", {"Stacks": [stack]})

    def events(self, *events: tuple[str, str, str]) -> None:
        """Return events, oldest first: resource, status and reason."""
        answer = [
            {
                "StackId": "arn:cxr/1",
                "StackName": "cxr",
                "EventId": f"{resource}-{status}",
                "LogicalResourceId": resource,
                "ResourceStatus": status,
                "ResourceStatusReason": reason,
                "Timestamp": NOW,
            }
            for resource, status, reason in reversed(events)
        ]
        self.stub.add_response("describe_stack_events", {"StackEvents": answer})

    def change_set(self, status: str, reason: str = "", kind: str = "UPDATE", **parameters: Any) -> None:
        request = {
            **CHANGE_SET,
            "ChangeSetType": kind,
            "TemplateURL": URL,
            "Parameters": ANY,
            "Capabilities": ["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
            **parameters,
        }
        self.stub.add_response("create_change_set", {}, request)
        answer = {"Status": status, "StatusReason": reason}
        self.stub.add_response("describe_change_set", answer, CHANGE_SET)


@pytest.fixture
def played() -> Iterator[Played]:
    made = Played()
    with made.stub:
        yield made
        made.stub.assert_no_pending_responses()


def test_no_changes_is_fine(played: Played) -> None:
    played.status("CREATE_COMPLETE")
    played.change_set(
        "FAILED", "The submitted information didn't contain changes. Submit different information."
    )
    played.stub.add_response("delete_change_set", {}, CHANGE_SET)
    played.status("CREATE_COMPLETE")
    played.stack.apply(URL, {})
    assert played.lines == ["the stack is up to date"]


def test_a_template_that_is_not_taken_is_said(played: Played) -> None:
    played.status("CREATE_COMPLETE")
    played.change_set("FAILED", "Transform failed")
    with pytest.raises(StackError, match="rejected the template: Transform failed"):
        played.stack.apply(URL, {})


def test_the_first_failure_is_the_one_that_is_said(played: Played) -> None:
    played.status(None)
    played.change_set("CREATE_COMPLETE", kind="CREATE")
    played.events()
    played.stub.add_response("execute_change_set", {}, CHANGE_SET)
    events = (
        ("Vpc", "CREATE_FAILED", "The maximum number of VPCs has been reached."),
        ("Bucket", "CREATE_FAILED", "Resource creation cancelled"),
        ("cxr", "ROLLBACK_IN_PROGRESS", ""),
    )
    played.status("CREATE_IN_PROGRESS")
    played.events(*events[:1])
    played.status("ROLLBACK_COMPLETE")
    played.events(*events)
    played.events(*events)
    with pytest.raises(
        StackError, match=r"ROLLBACK_COMPLETE: Vpc: The maximum number of VPCs .*run this again"
    ):
        played.stack.apply(URL, {})
    assert played.lines == ["  Vpc: CREATE_FAILED", "  Bucket: CREATE_FAILED", "  cxr: ROLLBACK_IN_PROGRESS"]


def test_parameters_that_are_not_named_keep_their_values(played: Played) -> None:
    played.status("UPDATE_COMPLETE", "Email", "Gone", "EventMapping")
    declared = [{"ParameterKey": name} for name in ("Email", "EventMapping", "New")]
    played.stub.add_response("get_template_summary", {"Parameters": declared}, {"TemplateURL": URL})
    expected = [
        {"ParameterKey": "EventMapping", "ParameterValue": "true"},
        {"ParameterKey": "Email", "UsePreviousValue": True},
    ]
    played.change_set("FAILED", "No updates are to be performed", Parameters=expected)
    played.stub.add_response("delete_change_set", {}, CHANGE_SET)
    played.status("UPDATE_COMPLETE")
    played.stack.apply(URL, {"EventMapping": "true"})


def test_a_creation_that_failed_is_removed_first(played: Played) -> None:
    for _ in range(2):  # to decide, and to delete
        played.status("ROLLBACK_COMPLETE")
    played.events()
    played.stub.add_response("delete_stack", {}, {"StackName": "arn:cxr/1"})
    played.status("DELETE_COMPLETE")
    played.events()
    assert played.stack.ready() is None
    assert played.lines == ["deleting the stack that is in ROLLBACK_COMPLETE"]


def test_another_deploy_at_work_is_waited_for(played: Played) -> None:
    played.status("UPDATE_IN_PROGRESS")
    played.events()
    played.status("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
    played.events()
    played.status("UPDATE_COMPLETE")
    played.events()
    state = played.stack.ready()
    assert state is not None
    assert state.status == "UPDATE_COMPLETE"
    assert played.clock > 0


def test_a_rollback_that_failed_needs_a_person(played: Played) -> None:
    played.status("UPDATE_ROLLBACK_FAILED")
    with pytest.raises(StackError, match="continue its rollback"):
        played.stack.ready()


def test_a_change_set_that_was_never_executed_is_no_stack(played: Played) -> None:
    played.status("REVIEW_IN_PROGRESS")
    assert played.stack.read() is None


def test_waiting_ends(played: Played) -> None:
    for _ in range(2000):
        played.status("UPDATE_IN_PROGRESS")
        played.events()
    with pytest.raises(StackError, match="still at work"):
        played.stack.ready()
    assert 40 * 60 < played.clock < 50 * 60
    played.stub._queue.clear()


def test_what_keeps_a_stack_from_going_is_said(played: Played) -> None:
    played.status("CREATE_COMPLETE")
    played.events()
    played.stub.add_response("delete_stack", {}, {"StackName": "arn:cxr/1"})
    played.status("DELETE_FAILED")
    failed = ("SubnetA", "DELETE_FAILED", "has dependencies and cannot be deleted")
    played.events(failed)
    played.events(failed)
    with pytest.raises(StackError, match=r"DELETE_FAILED: SubnetA: has dependencies .*run this again"):
        played.stack.delete()
