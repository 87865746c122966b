"""Play stacks with moto's CloudFormation, with the parts of template.yaml that the commands read."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.cloudformation.models import ChangeSet as FakeChangeSet
from moto.cloudformation.models import cloudformation_backends
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
from rich.console import Console

from ec2_runner.reach.fleet import Fleet
from ec2_runner.stack.cloudformation import CloudFormationStack
from ec2_runner.stack.deploy import DeployOptions, Plan, carry_out, make_plan
from ec2_runner.stack.display import Display
from ec2_runner.stack.release import Architecture, Bundle, write_manifest
from handlers import wiring
from pipeline.aws.clients import Aws

NAME, REGION, ACCOUNT = "cxr-inbox", "us-east-1", "123456789012"
BUCKET = f"{NAME}-{ACCOUNT}-{REGION}"
ARTIFACTS = f"{NAME}-artifacts-{ACCOUNT}-{REGION}"
_DEFAULTS = {
    "BucketName": None,
    "Release": None,
    "KmsKeyArn": "",
    "S3PrefixList": "",
    "Ami": "",
    "PinnedAmi": "",
    "Newest": "ami-00000001",  # where template.yaml reads the public parameter
    "CreateBucket": "true",
    "InstanceType": "t3.medium",
    "NotificationEmail": "",
    "IdleMinutes": "20",
    "RetentionDays": "0",
    "FunctionArchitecture": "x86_64",
    "EventMapping": "true",
    "NetworkPrefix": "10.97",
}
TEMPLATE = {
    "Parameters": {
        **{
            name: {"Type": "String", **({} if default is None else {"Default": default})}
            for name, default in _DEFAULTS.items()
        },
        "LogKey": {"Type": "String", "NoEcho": True},
    },
    "Conditions": {
        "MakesBucket": {"Fn::Equals": [{"Ref": "CreateBucket"}, "true"]},
        "HasAmi": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Ami"}, ""]}]},
        "HasPinnedAmi": {"Fn::Not": [{"Fn::Equals": [{"Ref": "PinnedAmi"}, ""]}]},
    },
    "Resources": {
        "Bucket": {
            "Type": "AWS::S3::Bucket",
            "Condition": "MakesBucket",
            "DeletionPolicy": "Retain",  # as RetainExceptOnCreate does, which moto does not know
            "Properties": {"BucketName": {"Ref": "BucketName"}},
        },
        "IndexTable": {
            "Type": "AWS::DynamoDB::Table",
            "Properties": {
                "TableName": {"Fn::Sub": "${AWS::StackName}-index"},
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [
                    {"AttributeName": name, "AttributeType": "S"} for name in ("key", "feed", "changed_at")
                ],
                "KeySchema": [{"AttributeName": "key", "KeyType": "HASH"}],
                "GlobalSecondaryIndexes": [
                    {
                        "IndexName": "feed",
                        "KeySchema": [
                            {"AttributeName": "feed", "KeyType": "HASH"},
                            {"AttributeName": "changed_at", "KeyType": "RANGE"},
                        ],
                        "Projection": {"ProjectionType": "ALL"},
                    }
                ],
            },
        },
        "LeaseTable": {
            "Type": "AWS::DynamoDB::Table",
            "Properties": {
                "TableName": {"Fn::Sub": "${AWS::StackName}-lease"},
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
                "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
            },
        },
        **{
            f"Queue{index}": {
                "Type": "AWS::SQS::Queue",
                "Properties": {"QueueName": {"Fn::Sub": f"${{AWS::StackName}}-{name}"}},
            }
            for index, name in enumerate(("jobs", "jobs-dead", "verdicts", "verdicts-dead"))
        },
    },
    "Outputs": {
        "Release": {"Value": {"Ref": "Release"}},
        "ArtifactBucket": {
            "Value": {"Fn::Sub": "${AWS::StackName}-artifacts-${AWS::AccountId}-${AWS::Region}"}
        },
        "BucketName": {"Value": {"Ref": "BucketName"}},
        "JobsQueueArn": {"Value": {"Fn::GetAtt": ["Queue0", "Arn"]}},
        "VerdictsQueueArn": {"Value": {"Fn::GetAtt": ["Queue2", "Arn"]}},
        "Image": {
            "Value": {
                "Fn::If": [
                    "HasAmi",
                    {"Ref": "Ami"},
                    {"Fn::If": ["HasPinnedAmi", {"Ref": "PinnedAmi"}, {"Ref": "Newest"}]},
                ]
            }
        },
        "NewestImage": {"Value": {"Ref": "Newest"}},
        "HostRoleId": {"Value": "AROAEXAMPLE"},
        "EventMapping": {"Value": {"Ref": "EventMapping"}},
        "IdleMinutes": {"Value": {"Ref": "IdleMinutes"}},
        "LogKey": {"Value": {"Ref": "LogKey"}},  # only here, to see it
    },
}


@dataclass
class Cloud:
    """Hold an empty AWS account and its calls: each `operation` with its most telling parameter."""

    aws: Aws
    folder: Path
    calls: list[str] = field(default_factory=list)
    output: StringIO = field(default_factory=StringIO)
    sleep: Callable[[float], None] = lambda _: None  # what a wait for CloudFormation does

    @property
    def display(self) -> Display:
        """Return a display that writes to `output`."""
        return Display(Console(file=self.output, width=100))

    @property
    def stack(self) -> CloudFormationStack:
        """Return the stack, without pauses between two looks at it."""
        client = self.aws.client("cloudformation")
        return CloudFormationStack(NAME, client, self.display.say, sleep=lambda time: self.sleep(time))

    def pretend(self, status: str) -> None:
        """Have CloudFormation report this status of the stack."""
        backend = cloudformation_backends[ACCOUNT][REGION]
        backend.get_stack(NAME).status = status

    @property
    def fleet(self) -> Fleet:
        """Return the hosts of the stack."""
        return Fleet(self.aws.client("ec2"), NAME)

    def deploy(
        self, build: Callable[[Architecture, Architecture], Bundle] | None = None, **options: Any
    ) -> Plan:
        """Deploy as the command does."""
        plan = make_plan(DeployOptions(NAME, **options), self.aws, self.stack)
        carry_out(plan, self.aws, self.stack, self.fleet, build or self.build, self.display)
        return plan

    def build(self, hosts: Architecture, functions: Architecture, number: int = 2) -> Bundle:
        """Build a release of a few bytes."""
        folder = self.folder / f"release-{number}"
        for name in ("wheelhouse/cxr_inbox-0.1-py3-none-any.whl", "host/install.sh", "lambda.zip"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{name} {hosts} {functions} {number}")
        template = self.folder / "source.yaml"
        template.write_text(f"# CodeUri: build/lambda\n{json.dumps(TEMPLATE)}")
        write_manifest(folder)
        return Bundle(number, folder, folder / "lambda.zip", template)

    def text(self, key: str, bucket: str = BUCKET) -> str:
        """Return the content of an object."""
        body: bytes = self.aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return body.decode()

    def names(self, bucket: str = BUCKET) -> list[str]:
        """Return the names of all objects in a bucket."""
        return [
            item["Key"] for item in self.aws.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])
        ]

    def said(self) -> str:
        """Return what was displayed, without line breaks."""
        return " ".join(self.output.getvalue().split())

    def launch(self) -> str:
        """Launch a host of the stack and return its id."""
        tags = [{"Key": "cxr:stack", "Value": NAME}]
        answer = self.aws.client("ec2").run_instances(
            ImageId=self.aws.client("ec2").describe_images()["Images"][0]["ImageId"],
            InstanceType="t3.medium",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        return str(answer["Instances"][0]["InstanceId"])


@contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    """Provide an empty account for one test."""
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": REGION}
    with (
        mock.patch.dict(os.environ, {**keys, "AWS_DEFAULT_REGION": REGION}),
        mock.patch.object(yaml, "load", lambda text, Loader: deepcopy(_loaded(text, Loader))),
        mock.patch.object(FakeChangeSet, "apply", _apply),
        mock.patch.object(IAMPolicyStatement, "is_action_permitted", _is_permitted),
        mock_aws(),
    ):
        wiring.aws.cache_clear()
        made = Cloud(wiring.aws(), folder)
        for client in (made.aws.client("s3"), made.aws.client("cloudformation")):
            client.meta.events.register("before-parameter-build.*.*", _noter(made.calls))
        simulate = "before-parameter-build.iam.SimulatePrincipalPolicy"  # which moto does not do
        made.aws.client("iam").meta.events.register(simulate, _refuse)
        yield made


_loaded = cache(yaml.load)  # moto parses one template up to six times for a deployment, slowly
_permitted_by_moto = IAMPolicyStatement.is_action_permitted


def _is_permitted(statement: IAMPolicyStatement, *arguments: Any, **more: Any) -> PermissionResult:
    """Judge a statement as moto does, except that it denies without looking at the conditions."""
    if statement._statement["Effect"] == "Deny" and "Condition" in statement._statement:
        return PermissionResult.NEUTRAL
    return _permitted_by_moto(statement, *arguments, **more)


_applied_by_moto = FakeChangeSet.apply


def _apply(change_set: FakeChangeSet) -> None:
    """Apply a change as moto does, which forgets the outputs."""
    _applied_by_moto(change_set)
    change_set.stack.template = change_set.template
    change_set.stack._parse_template()
    change_set.stack.output_map = change_set.stack._create_output_map()


def _refuse(model: Any, **_: Any) -> None:
    raise ClientError({"Error": {"Code": "AccessDenied", "Message": "by the tests"}}, model.name)


def _noter(calls: list[str]) -> Callable[..., None]:
    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        changed = {item["ParameterKey"]: item.get("ParameterValue") for item in params.get("Parameters", [])}
        telling = changed.get("EventMapping") or params.get("Key") or params.get("Bucket") or ""
        calls.append(f"{model.name} {telling}".strip())

    return note
