"""CloudFormation answers that moto does not give, played by botocore's Stubber."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.stub import ANY, Stubber

from ec2_runner.stack.cloudformation import CloudFormationStack, StackState
from pipeline.errors import StackError, StackGoesOn, StoreError

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


def roll_back(played: Played, status: str) -> None:
    """Play a rollback that failed, is continued, and ends in this status."""
    played.status("UPDATE_ROLLBACK_FAILED")
    played.events()
    played.stub.add_response("continue_update_rollback", {}, {"StackName": "arn:cxr/1"})
    played.status("UPDATE_ROLLBACK_FAILED")  # CloudFormation may not have begun
    played.events()
    played.status(status)
    played.events(("Alarms", "UPDATE_FAILED", "Access denied"))


def test_a_rollback_that_failed_is_continued(played: Played) -> None:
    roll_back(played, "UPDATE_ROLLBACK_COMPLETE")
    state = played.stack.ready()
    assert state is not None
    assert state.status == "UPDATE_ROLLBACK_COMPLETE"
    assert played.lines == ["continuing the rollback that failed", "  Alarms: UPDATE_FAILED"]


def test_a_rollback_that_fails_again_needs_a_person(played: Played) -> None:
    roll_back(played, "UPDATE_ROLLBACK_FAILED")
    played.events(("Alarms", "UPDATE_FAILED", "Access denied"))
    with pytest.raises(StackError, match=r"failed again: Alarms: Access denied.*skip that resource"):
        played.stack.ready()


@pytest.mark.parametrize("status", ["UPDATE_FAILED", "IMPORT_ROLLBACK_FAILED"])
def test_a_state_that_only_the_console_ends_is_said(played: Played, status: str) -> None:
    played.status(status)
    with pytest.raises(StackError, match=f"in {status}: end that in the CloudFormation console"):
        played.stack.ready()


def test_a_stack_that_is_being_deleted_is_waited_for(played: Played) -> None:
    played.status("DELETE_IN_PROGRESS")
    played.events()
    played.status("DELETE_IN_PROGRESS")
    played.events()
    played.status("DELETE_COMPLETE")
    played.events()
    assert played.stack.ready() is None


def test_each_state_of_a_stack_has_an_answer() -> None:
    model = botocore.session.get_session().get_service_model("cloudformation")
    for status in model.shape_for("StackStatus").enum:
        state = StackState("arn:cxr/1", status, {}, {})
        is_over = status == "DELETE_COMPLETE" or status.endswith("FAILED")
        assert state.is_busy + state.is_sound + state.was_never_made == 1 or is_over, status


def test_an_operation_is_not_over_before_it_began(played: Played) -> None:
    """An update that CloudFormation accepted may not show yet; the stack still has its old status."""
    played.status("UPDATE_ROLLBACK_COMPLETE")
    played.change_set("CREATE_COMPLETE")
    played.events()
    played.stub.add_response("execute_change_set", {}, CHANGE_SET)
    played.status("UPDATE_ROLLBACK_COMPLETE")
    played.events()
    played.status("UPDATE_COMPLETE")
    played.events(("cxr", "UPDATE_COMPLETE", ""))
    played.status("UPDATE_COMPLETE")
    assert played.stack.apply(URL, {}).status == "UPDATE_COMPLETE"


def test_changes_that_are_refused_have_not_begun(played: Played) -> None:
    played.status("UPDATE_COMPLETE")
    played.change_set("CREATE_COMPLETE")
    played.events()
    played.stub.add_client_error("execute_change_set", "AccessDenied", "no cloudformation:ExecuteChangeSet")
    with pytest.raises(StackError, match="did not begin the update: AccessDenied: no cloudf") as found:
        played.stack.apply(URL, {})
    assert not isinstance(found.value, StackGoesOn)


def test_expired_credentials_leave_the_operation_to_go_on(played: Played) -> None:
    played.status("UPDATE_COMPLETE")
    played.change_set("CREATE_COMPLETE")
    played.events()
    played.stub.add_response("execute_change_set", {}, CHANGE_SET)
    played.stub.add_client_error("describe_stacks", "ExpiredToken")
    with pytest.raises(StackGoesOn, match=r"log in to AWS again.*CloudFormation goes on with the stack cxr"):
        played.stack.apply(URL, {})


def test_a_deletion_waits_for_an_update(played: Played) -> None:
    played.status("UPDATE_IN_PROGRESS")
    played.events()
    played.status("UPDATE_COMPLETE")
    played.events()
    played.events()
    played.stub.add_response("delete_stack", {}, {"StackName": "arn:cxr/1"})
    played.status(None)
    played.events()
    played.stack.delete()


def previewed(played: Played, kind: str, *changes: dict[str, Any], reason: str = "") -> None:
    request = {
        **CHANGE_SET,
        "ChangeSetType": kind,
        "TemplateBody": "Resources:",
        "Parameters": [],
        "Capabilities": ["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
    }
    played.stub.add_response("create_change_set", {}, request)
    status = "FAILED" if reason else "CREATE_COMPLETE"
    played.stub.add_response("describe_change_set", {"Status": status, "StatusReason": reason}, CHANGE_SET)
    for number, change in enumerate(changes):
        more = {"NextToken": str(number)} if number else {}
        token = {"NextToken": str(number + 1)} if number + 1 < len(changes) else {}
        page = {"Status": status, "Changes": [{"Type": "Resource", "ResourceChange": change}], **token}
        played.stub.add_response("describe_change_set", page, {**CHANGE_SET, **more})
    played.stub.add_response("delete_change_set", {}, CHANGE_SET)


def test_a_preview_of_a_new_stack_leaves_nothing(played: Played) -> None:
    played.status(None)
    played.status(None)
    added = {"Action": "Add", "LogicalResourceId": "Network", "ResourceType": "AWS::EC2::VPC"}
    previewed(played, "CREATE", added, added)
    played.status("REVIEW_IN_PROGRESS")
    played.stub.add_response("delete_stack", {}, {"StackName": "arn:cxr/1"})
    assert len(played.stack.planned_changes("Resources:", {})) == 2


def test_a_preview_keeps_the_change_sets_of_others(played: Played) -> None:
    played.status("REVIEW_IN_PROGRESS")
    played.status("REVIEW_IN_PROGRESS")
    previewed(played, "CREATE", reason="The submitted information didn't contain changes.")
    assert played.stack.planned_changes("Resources:", {}) == []


def test_a_preview_that_is_refused_made_nothing(played: Played) -> None:
    played.status("CREATE_COMPLETE")
    played.status("CREATE_COMPLETE")
    played.stub.add_client_error("create_change_set", "AccessDenied")
    with pytest.raises(StoreError, match="refused: AccessDenied"):
        played.stack.planned_changes("Resources:", {})


def test_a_preview_that_may_not_be_removed_is_named(played: Played) -> None:
    played.status("CREATE_COMPLETE")
    played.status("CREATE_COMPLETE")
    previewed(played, "UPDATE", reason="Transform failed")
    played.stub._queue.pop()
    played.stub.add_client_error("delete_change_set", "AccessDenied")
    with pytest.raises(StackError, match="change set cxr-0 of the stack cxr is left over, and harmless"):
        played.stack.planned_changes("Resources:", {})


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
