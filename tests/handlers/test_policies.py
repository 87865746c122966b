"""The policies in docs/policies/: exactly what the commands call, and CloudFormation in their name."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import cfnlint
import pytest
from botocore import xform_name

from ec2_runner.stack.account import POLICIES
from pipeline.names import PAGES
from tests.support.aws import ROOT, as_list, template
from tests.support.calls import Place, calls

SERVICES = {  # boto3's name, and IAM's
    **{
        name: name
        for name in (
            *("cloudformation", "cloudwatch", "dynamodb", "ec2", "iam", "kms", "lambda", "s3", "sqs", "sts"),
        )
    },
    "service-quotas": "servicequotas",
}
LONGEST = 6144  # characters of a managed policy, without spaces
NAMES = sorted(path.stem for path in (ROOT / "docs/policies").glob("*.json"))
COMMANDS = {
    "deploy": ("cxr.deployment.deploy_command", "cxr.deployment.destroy_command"),
    "page": ("cxr.commands._serve_bucket", "cxr.commands._page", "cxr.deployment.status_command"),
}
ACTIONS = {  # where IAM's name is not the method's
    "delete_objects": {"s3:DeleteObject", "s3:DeleteObjectVersion"},
    "get_bucket_encryption": {"s3:GetEncryptionConfiguration"},
    "get_bucket_cors": {"s3:GetBucketCORS"},
    "get_bucket_lifecycle_configuration": {"s3:GetLifecycleConfiguration"},
    "get_bucket_notification_configuration": {"s3:GetBucketNotification"},
    "get_caller_identity": set(),  # everybody may
    "get_object": {"s3:GetObject", "s3:ListBucket"},  # without the second, a missing object is a 403
    "head_bucket": {"s3:ListBucket"},
    "head_object": {"s3:GetObject", "s3:ListBucket"},
    "list_object_versions": {"s3:ListBucketVersions"},
    "list_objects_v2": {"s3:ListBucket"},
    "put_bucket_encryption": {"s3:PutEncryptionConfiguration"},
    "put_bucket_lifecycle_configuration": {"s3:PutLifecycleConfiguration"},
    "put_bucket_notification_configuration": {"s3:PutBucketNotification"},
    "put_public_access_block": {"s3:PutBucketPublicAccessBlock"},
    "upload_file": {"s3:AbortMultipartUpload", "s3:PutObject"},  # boto3's own: it uploads in parts
}
# Methods of ours that are reached by their names alone: the commands call others of those names.
NOT_CALLED = {
    ("page", "DynamoIndex", "_update"),
    ("page", "DynamoIndex", "get"),
    ("page", "Fleet", "start"),
    ("page", "Fleet", "stop"),
    ("page", "Fleet", "terminate"),
}
OF_SAM = {  # what SAM makes of our functions and their events
    *("AWS::Lambda::Function", "AWS::Lambda::EventSourceMapping", "AWS::Lambda::EventInvokeConfig"),
    *("AWS::Lambda::Permission", "AWS::Events::Rule"),
}
# Permissions that AWS's schemas name for properties that no resource of the template has.
NOT_NEEDED = {
    "keys, streams, file systems and others that nothing here uses": (
        r"(kms|kinesis|firehose|elasticfilesystem|s3files|s3tables|vpc-lattice|vpce):"
    ),
    "tags are never removed": r"\w+:Untag\w+",
    "no replicas, imports, streams and items of a table": (
        r"dynamodb:(BatchWriteItem|\w+Replica|\w*Import\w*|\w+Kinesis\w+|\w+ContributorInsights"
        r"|\w+ResourcePolicy|\w+Item|Query|Scan)"
    ),
    "no deliveries, protection and indexes of logs, and no lines": (
        r"logs:(\w+LogStreams?|PutLogEvents|CreateLogDelivery|\w+BearerToken\w+|\w+IndexPolic(y|ies)"
        r"|\w+ResourcePolic(y|ies)|\w+KmsKey|\w+Protection\w*)"
    ),
    "no such settings of a bucket": (
        r"s3:(REST\.\w+\.\w+|GetObjectMetadata|GetObjectVersion|PutObject(Acl|Lock\w+)|DeleteObject"
        r"|(Get|Put)(Bucket)?(Acl|Abac|Logging|ObjectLock\w*|Replication|Website)|\w*Metadata\w+"
        r"|(Get|Put)(Accelerate|Analytics|IntelligentTiering|Inventory|Metrics|Replication)Configuration"
        r"|DeleteBucket(Analytics|Cors|Encryption|Lifecycle|Metrics|Replication|Website)\w*)"
    ),
    "no layers, versions, signing, reserved and other concurrency of functions": (
        r"lambda:(\w+CodeSigningConfig|GetLayerVersion|PassCapacityProvider|\w+FunctionConcurrency"
        r"|\w+ScalingConfig|AssociateRuntimeAlias|PutRuntimeManagementConfig|PublishVersion)"
    ),
    "no IPv6, encryption control and tenancy of a network": (
        r"ec2:(CreateVpcEncryptionControl|ModifyVpcTenancy|\w+SubnetCidrBlock)"
    ),
    "no managed policies, boundaries and descriptions of roles": (
        r"iam:(Attach|Detach)RolePolicy|iam:\w+RolePermissionsBoundary|iam:UpdateRole(Description)?"
    ),
    "policies of roles, not of users and groups": r"iam:\w+(User|Group)Policy",
    "no data protection of a topic": r"sns:\w+DataProtectionPolicy",
}
OF_THE_TEMPLATE = {  # for the template itself, not for one of its resources
    "ec2:DescribeAvailabilityZones",  # !GetAZs
    "ec2:DescribeImages",  # parameters of the type AWS::EC2::Image::Id
    "ssm:GetParameters",  # parameters that are read from Systems Manager
}


def policy(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / f"docs/policies/{name}.json").read_text("utf-8"))
    return content


def granted(*names: str) -> set[str]:
    return {
        action for name in names for part in policy(name)["Statement"] for action in as_list(part["Action"])
    }


@cache
def methods() -> dict[str, set[str]]:
    """Return what IAM asks for each method of the clients that the commands use."""
    session, found = botocore.session.get_session(), {"upload_file": ACTIONS["upload_file"]}
    for service, prefix in SERVICES.items():
        for operation in session.get_service_model(service).operation_names:
            method = xform_name(operation)
            found.setdefault(method, set()).update(ACTIONS.get(method, {f"{prefix}:{operation}"}))
    return found


def places_of_calls(name: str) -> dict[str, set[Place]]:
    return calls(COMMANDS[name], frozenset(methods()), made="pipeline.store.s3.S3Store")


def called(name: str) -> set[str]:
    """Return the actions that a policy's commands need for their own calls."""
    return {
        action
        for method, places in places_of_calls(name).items()
        if any(_is_call(place, name) for place in places)
        for action in methods()[method]
    }


def _is_call(place: Place, name: str) -> bool:
    by_aws = place.module.startswith(("ec2_runner", "pipeline"))  # a word elsewhere is another thing
    return by_aws and (name, place.owner, place.name) not in NOT_CALLED


def test_what_is_not_called_is_reached_by_its_name() -> None:
    reached = {
        (name, place.owner, place.name)
        for name in COMMANDS
        for places in places_of_calls(name).values()
        for place in places
    }
    assert reached >= NOT_CALLED


@cache
def of_cloudformation() -> set[str]:
    """Return the permissions that AWS's schemas name for the types of resources in the template."""
    kinds = {resource["Type"] for resource in template()["Resources"].values()} - {
        "AWS::Serverless::Function"
    }
    found, known = set(), set()
    for path in (Path(cfnlint.__file__).parent / "data/schemas/resources").glob("*.json"):
        schema = json.loads(path.read_text("utf-8"))
        if schema.get("typeName") in kinds | OF_SAM:
            known.add(schema["typeName"])
            for verb in ("create", "read", "update", "delete"):
                found |= set(schema["handlers"].get(verb, {}).get("permissions", []))
    assert known == kinds | OF_SAM
    return found


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_policy_grants_what_its_commands_call_and_nothing_else(name: str) -> None:
    assert granted(name) - called(name) == set(), "granted, and never called"
    assert called(name) - granted(name) == set(), "called, and not granted"


def test_cloudformation_may_do_what_the_template_needs_and_nothing_else() -> None:
    have = granted("cloudformation", "network")
    left = {action for action in of_cloudformation() - have if not _reason(action)}
    assert left == set(), "AWS's schemas name these: grant them, or say in NOT_NEEDED why not"
    assert have - of_cloudformation() - OF_THE_TEMPLATE == set(), "granted, and named by no schema"
    assert {action for action in have if _reason(action)} == set(), "granted, though not needed"
    assert have >= OF_THE_TEMPLATE


def test_each_reason_leaves_something_out() -> None:
    for reason, pattern in NOT_NEEDED.items():
        assert any(re.match(pattern, action) for action in of_cloudformation()), reason


def _reason(action: str) -> str | None:
    return next((why for why, pattern in NOT_NEEDED.items() if re.match(f"({pattern})", action)), None)


def test_a_deploy_needs_all_but_the_page() -> None:
    assert {Path(path).stem for path in POLICIES} == set(NAMES) - {"page"}


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_fits_into_iam_and_names_what_it_can(name: str) -> None:
    text = (ROOT / f"docs/policies/{name}.json").read_text("utf-8")
    longest = {"STACK": "s" * 20, "ACCOUNT": "1" * 12, "REGION": "ap-southeast-99", "BUCKET": "b" * 63}
    for word, value in longest.items():
        text = text.replace(word, value)
    assert len(re.sub(r"\s", "", text)) <= LONGEST
    sids = [part["Sid"] for part in policy(name)["Statement"]]
    assert len(set(sids)) == len(sids)
    for part in policy(name)["Statement"]:
        actions, places = as_list(part["Action"]), as_list(part["Resource"])
        assert part["Effect"] == "Allow"
        assert actions == sorted(set(actions))
        assert not any("*" in action for action in actions)
        services = {arn.split(":")[2] for arn in places if arn != "*"}
        if places != ["*"]:  # the simulation of a dry run looks for an action's resources by its service
            assert {action.partition(":")[0] for action in actions} == services


def test_only_who_deploys_may_delete() -> None:
    changing = re.compile(r"\w+:(Create|Put|Delete|Update|Terminate|Execute|Pass)\w*")
    assert {action for action in granted("page") if changing.match(action)} == {"s3:PutObject"}
    writing = [part for part in policy("page")["Statement"] if part["Action"] == "s3:PutObject"]
    places = [place for part in writing for place in as_list(part["Resource"])]
    assert places == [f"arn:aws:s3:::BUCKET/{one}" for one in ("inbox/*", "outbox/.reviews/*", PAGES)]


def test_the_document_leads_to_each_policy() -> None:
    text = (ROOT / "docs/aws.md").read_text("utf-8")
    assert {name for name in NAMES if f"(policies/{name}.json)" in text} == set(NAMES)
