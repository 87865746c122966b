"""The permissions of each role: exactly those that its code needs, as `tests/support/calls.py` reads them."""

import re
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

from pipeline.aws.names import StackNames
from tests.support.aws import ROOT, as_list, resources, statements, template
from tests.support.calls import Place, calls

ARTIFACTS = StackNames("${AWS::StackName}").artifacts("${AWS::AccountId}", "${AWS::Region}")
SERVICES = ("cloudwatch", "dynamodb", "ec2", "ec2-instance-connect", "s3", "sns", "sqs")
ACTIONS = {  # a boto3 method, and what IAM asks for it
    # Without s3:ListBucket, a missing object is a 403. kms: for a bucket with SSE-KMS.
    "get_object": {"s3:GetObject", "s3:ListBucket", "kms:Decrypt"},
    "head_object": {"s3:GetObject", "s3:ListBucket"},
    "put_object": {"s3:PutObject", "kms:GenerateDataKey"},
    "delete_object": {"s3:DeleteObject"},
    "list_objects_v2": {"s3:ListBucket"},
    "get_item": {"dynamodb:GetItem"},
    "put_item": {"dynamodb:PutItem"},
    "update_item": {"dynamodb:UpdateItem"},
    "delete_item": {"dynamodb:DeleteItem"},
    "query": {"dynamodb:Query"},
    "scan": {"dynamodb:Scan"},
    "publish": {"sns:Publish"},
    "send_message": {"sqs:SendMessage"},
    "send_message_batch": {"sqs:SendMessage"},
    "change_message_visibility_batch": {"sqs:ChangeMessageVisibility"},
    "get_queue_attributes": {"sqs:GetQueueAttributes"},
    "get_queue_url": {"sqs:GetQueueUrl"},
    "get_metric_statistics": {"cloudwatch:GetMetricStatistics"},
    "describe_instances": {"ec2:DescribeInstances"},
    "describe_instance_status": {"ec2:DescribeInstanceStatus"},
    "describe_instance_connect_endpoints": {"ec2:DescribeInstanceConnectEndpoints"},
    "run_instances": {"ec2:RunInstances", "ec2:CreateTags", "iam:PassRole"},
    "start_instances": {"ec2:StartInstances"},
    "stop_instances": {"ec2:StopInstances"},
    "terminate_instances": {"ec2:TerminateInstances"},
    "send_ssh_public_key": {"ec2-instance-connect:SendSSHPublicKey"},
    "signed_url": {"ec2-instance-connect:OpenTunnel"},  # ours: boto3 has no call for it
}
LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
CONSUMES = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
TABLES = {"ec2_runner.reach.lease": "LeaseTable", "pipeline.worklist.dynamodb": "IndexTable"}
KEEPS_THE_LEASE = {"IngestFunction", "ReapFunction"}  # elsewhere `read` is that of S3's bodies
ASKS_CLOUDWATCH = {"ReconcileFunction"}  # elsewhere `wait` is the worklist's, not the observer's
HOST = ("ec2_runner.host.agent.Publisher", "pipeline.judge.Judge")
SHELL = {
    "s3 cp": {"s3:GetObject", "s3:PutObject", "kms:Decrypt", "kms:GenerateDataKey"},
    "--recursive": {"s3:ListBucket"},
    "s3 rm": {"s3:DeleteObject"},
}

Granted = set[tuple[str, str]]  # action, and the table where it is one of DynamoDB


def functions() -> dict[str, dict[str, Any]]:
    return resources("AWS::Serverless::Function")


def policy(role: str) -> list[dict[str, Any]]:
    found = [*resources("AWS::IAM::Role")[role]["Policies"]]
    found += [part for part in resources("AWS::IAM::Policy").values() if {"Ref": role} in part["Roles"]]
    return [statement for part in found for statement in statements(part["PolicyDocument"])]


def granted(role: str) -> Granted:
    found = set()
    for statement in policy(role):
        for action in as_list(statement["Action"]):
            table = statement["Resource"]["Fn::GetAtt"][0] if action.startswith("dynamodb:") else ""
            found.add((action, table))
    return found


def methods() -> frozenset[str]:
    """Return every method of the clients, so that no call in the code is overlooked."""
    session = botocore.session.get_session()
    names = {
        xform_name(operation)
        for service in SERVICES
        for operation in session.get_service_model(service).operation_names
    }
    return frozenset(names | {"signed_url"})


def needed(found: dict[str, set[Place]]) -> Granted:
    unknown = found.keys() - ACTIONS.keys()
    assert not unknown, f"which actions are these, for ACTIONS above? {unknown}"
    actions = set()
    for name, places in found.items():
        for place in places:
            for action in ACTIONS[name]:
                actions.add((action, TABLES[place.module] if action.startswith("dynamodb:") else ""))
    return actions


@pytest.mark.parametrize("name", sorted(functions()))
def test_a_function_may_do_what_it_does_and_nothing_else(name: str) -> None:
    function = functions()[name]
    role = function["Role"]["Fn::GetAtt"][0]
    actions = needed(calls((function["Handler"],), methods()))
    if name not in KEEPS_THE_LEASE:
        actions = {(action, table) for action, table in actions if table != "LeaseTable"}
    if name not in ASKS_CLOUDWATCH:
        actions.discard(("cloudwatch:GetMetricStatistics", ""))
    consumes = any(event["Type"] == "SQS" for event in function["Events"].values())
    actions |= {(action, "") for action in LOGS | (CONSUMES if consumes else set())}
    assert granted(role) - actions == set(), "granted, and never used"
    assert actions - granted(role) == set(), "used, and not granted"


def test_a_host_may_do_what_it_does_and_nothing_else() -> None:
    actions = {action for action, _ in needed(calls(HOST, methods(), made="pipeline.store.s3.S3Store"))}
    scripts = list((ROOT / "ec2_runner" / "host").rglob("*.sh"))
    assert len(scripts) == 3
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        actions |= {action for words, of in SHELL.items() if words in text for action in of}
    assert {action for action, _ in granted("HostRole")} == actions


@pytest.mark.parametrize("role", sorted(resources("AWS::IAM::Role")))
def test_no_role_has_more_than_it_names(role: str) -> None:
    assert "ManagedPolicyArns" not in resources("AWS::IAM::Role")[role]
    for statement in policy(role):
        actions = as_list(statement["Action"])
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in actions)
        if statement["Resource"] == "*":
            assert all(
                re.match(r"ec2:Describe\w+$", action) or action == "cloudwatch:GetMetricStatistics"
                for action in actions
            )


@pytest.mark.parametrize("role", sorted(resources("AWS::IAM::Role")))
def test_a_role_reads_and_writes_its_places_of_the_bucket_alone(role: str) -> None:
    base, artifacts = "arn:${AWS::Partition}:s3:::${BucketName}", f"arn:${{AWS::Partition}}:s3:::{ARTIFACTS}"
    ours = {"StringEquals": {"aws:ResourceAccount": {"Ref": "AWS::AccountId"}}}
    reads = {"inbox/*", "outbox/*", "system/hosts/*"}
    writes = {"outbox/*"}
    if role == "ReconcileRole":
        reads, writes = {"inbox/*", "outbox/*", "system/reconcile.json"}, {"system/reconcile.json"}
    if role == "HostRole":
        own = "system/hosts/${!aws:userid}/*"
        reads, writes = {"inbox/*", "outbox/*", own}, {"outbox/*", own}
    for statement in policy(role):
        (action, *_) = as_list(statement["Action"])
        places = [place["Fn::Sub"] for place in as_list(statement["Resource"])] if "s3:" in action else []
        if any(place.startswith(artifacts) for place in places):  # hosts only read their releases
            assert role == "HostRole"
            if action == "s3:ListBucket":
                assert places == [artifacts]
                assert statement["Condition"] == {**ours, "StringLike": {"s3:prefix": "releases/*"}}
            else:
                assert (action, places) == ("s3:GetObject", [f"{artifacts}/releases/*"])
                assert statement["Condition"] == ours
        elif action == "s3:ListBucket":
            assert places == [base]
        elif places:
            keys = {place.removeprefix(f"{base}/") for place in places}
            assert keys <= (reads if action == "s3:GetObject" else writes)


def test_roles_use_the_key_of_the_bucket_alone_and_only_through_s3() -> None:
    service = {"Fn::Sub": "s3.${AWS::Region}.${AWS::URLSuffix}"}
    for name, part in resources("AWS::IAM::Policy").items():
        if template()["Resources"][name]["Condition"] == "HasNotices":
            continue  # the next test
        assert template()["Resources"][name]["Condition"] == "HasKey"
        (statement,) = statements(part["PolicyDocument"])
        assert statement["Action"].startswith("kms:")
        assert statement["Resource"] == {"Ref": "KmsKeyArn"}
        assert statement["Condition"] == {"StringEquals": {"kms:ViaService": service}}
    for role in resources("AWS::IAM::Role").values():
        assert "kms:" not in str(role)


def test_notices_are_published_by_one_function_on_their_topic_alone() -> None:
    (part,) = [
        found
        for name, found in resources("AWS::IAM::Policy").items()
        if template()["Resources"][name]["Condition"] == "HasNotices"
    ]
    (statement,) = statements(part["PolicyDocument"])
    assert (statement["Action"], statement["Resource"]) == ("sns:Publish", {"Ref": "NoticesTopic"})
    assert part["Roles"] == [{"Ref": "RecordRole"}]
    told = {
        name
        for name, function in resources("AWS::Serverless::Function").items()
        if "CXR_NOTICES_TOPIC" in function.get("Environment", {}).get("Variables", {})
    }
    assert told == {"RecordFunction"}


def test_only_the_stacks_hosts_can_be_touched() -> None:
    stack = {"Ref": "AWS::StackName"}
    for role in ("IngestRole", "ReapRole"):
        for statement in policy(role):
            equal = statement.get("Condition", {}).get("StringEquals", {})
            actions = set(as_list(statement["Action"]))
            if actions & {f"ec2:{verb}Instances" for verb in ("Start", "Stop", "Terminate")}:
                assert equal == {"aws:ResourceTag/cxr:stack": stack}
            if "ec2:CreateTags" in actions:
                assert equal == {"ec2:CreateAction": "RunInstances", "aws:RequestTag/cxr:stack": stack}
            if "ec2-instance-connect:SendSSHPublicKey" in actions:
                assert equal == {"ec2:osuser": "cxr", "aws:ResourceTag/cxr:stack": stack}


def test_hosts_come_from_the_launch_template_with_their_role_and_are_reached_on_port_22() -> None:
    by_action: dict[str, list[dict[str, Any]]] = {}
    for statement in policy("IngestRole"):
        for action in as_list(statement["Action"]):
            by_action.setdefault(action, []).append(statement.get("Condition", {}))
    *launches, spot = by_action["ec2:RunInstances"]
    assert spot == {}  # for the request alone, which makes no host without the others
    for condition in launches:
        assert condition["ArnEquals"]["ec2:LaunchTemplate"]["Fn::Sub"].endswith(
            "launch-template/${HostTemplate}"
        )
    (passes,) = by_action["iam:PassRole"]
    assert passes == {"StringEquals": {"iam:PassedToService": {"Fn::Sub": "ec2.${AWS::URLSuffix}"}}}
    (tunnel,) = by_action["ec2-instance-connect:OpenTunnel"]
    assert tunnel["NumericEquals"] == {"ec2-instance-connect:remotePort": "22"}


def test_the_reading_of_the_code_sees_the_calls() -> None:
    """Ensure that the tests above do not pass on nothing."""
    found = calls(("handlers.reap.handler",), methods())
    assert {"stop_instances", "terminate_instances", "get_object"} <= found.keys()
    assert "run_instances" not in found
    assert Place("pipeline.store.s3", "get", "S3Store") in found["get_object"]


def test_the_document_explains_each_action() -> None:
    text = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`([a-z0-9-]+:[A-Z]\w+)`", text))
    actions = {
        action
        for role in resources("AWS::IAM::Role")
        for statement in policy(role)
        for action in as_list(statement["Action"])
    }
    assert explained == actions
