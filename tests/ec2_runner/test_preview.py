"""`cxr deploy --dry-run`: what would change, told from change sets, or from the template alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cfnlint.decode import decode
from typer.testing import CliRunner

from cxr.commands import app
from ec2_runner.stack import release
from ec2_runner.stack.deploy import DeployOptions, make_plan
from ec2_runner.stack.preview import bare, changes, compact, described, resources, template_resources
from ec2_runner.stack.upload import deployable
from pipeline.errors import UsageError
from tests.support import stacks
from tests.support.aws import ROOT, TEMPLATE
from tests.support.stacks import BUCKET, NAME, Cloud

POLICIES = ("deploy", "cloudformation", "network")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with stacks.cloud(tmp_path) as made:
        bundle = made.build("x86_64", "x86_64")
        bundle.template.rename(tmp_path / "template.yaml")
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs/policies").symlink_to(ROOT / "docs/policies")
        monkeypatch.setattr(release, "source_tree", lambda: tmp_path)
        made.calls.clear()
        yield made


def dry_run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["deploy", "--dry-run", *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def statuses(cloud: Cloud) -> list[str]:
    found = cloud.aws.client("cloudformation").describe_stacks()["Stacks"]
    return [stack["StackStatus"] for stack in found if stack["StackStatus"] != "DELETE_COMPLETE"]


def decoded(text: str, folder: Path) -> Any:
    path = folder / "decoded.yaml"
    path.write_text(text, encoding="utf-8")
    content, problems = decode(str(path))
    assert not problems
    return content


def test_the_compact_template_says_the_same(tmp_path: Path) -> None:
    text = deployable(TEMPLATE, "s3://a/b.zip")
    assert decoded(compact(text), tmp_path) == decoded(text, tmp_path)


def test_the_template_fits_into_a_change_set_without_a_bucket(tmp_path: Path) -> None:
    text = deployable(TEMPLATE, "s3://a/b.zip")
    assert len(compact(bare(text)).encode()) <= 51_200, "too long: see preview.py"
    shorter, whole = decoded(bare(text), tmp_path), decoded(text, tmp_path)
    assert whole.pop("Metadata")
    for section in ("Parameters", "Outputs"):
        for entry in whole[section].values():
            entry.pop("Description", None)
            entry.pop("ConstraintDescription", None)
    assert shorter == whole


def test_comments_and_texts_are_told_apart(tmp_path: Path) -> None:
    text = (
        "a: 'it # stays' # goes\nb: |\n    # stays\n\n      deeper # stays\nc:\n    - - d: \"#1\" # goes\n"
        "        e: x#y\n    # goes\n    -   f: >-\n            # stays\n    - g\n"
    )
    assert decoded(compact(text), tmp_path) == decoded(text, tmp_path)
    assert "goes" not in compact(text)


def test_the_template_is_read_without_a_library() -> None:
    text = deployable(TEMPLATE, "s3://a/b.zip")
    content, _ = decode(str(TEMPLATE))
    found = set(template_resources(text))
    assert found == {
        (name, item["Type"], item.get("Condition", "")) for name, item in content["Resources"].items()
    }
    without = "\n".join(resources(TEMPLATE, makes_bucket=False, notifies=False))
    assert "S3::Bucket" not in without
    assert "SNS::Subscription" not in without
    assert "create      2 AWS::DynamoDB::Table: IndexTable, LeaseTable" in without


def test_what_is_replaced_and_deleted_comes_first() -> None:
    def detail(name: str, recreation: str, **more: str) -> dict[str, Any]:
        target = {"Attribute": "Properties", "Name": name, "RequiresRecreation": recreation}
        return {"Target": target, **more}

    parameter = {"ChangeSource": "ParameterReference", "CausingEntity": "NetworkPrefix"}
    found: list[Any] = [
        {"Action": "Add", "LogicalResourceId": "Firewall", "ResourceType": "AWS::X"},
        {
            "Action": "Modify",
            "LogicalResourceId": "IngestFunction",
            "ResourceType": "AWS::Lambda::Function",
            "Replacement": "False",
            "Details": [detail("Code", "Never")],
        },
        {
            "Action": "Modify",
            "LogicalResourceId": "SubnetA",
            "ResourceType": "AWS::EC2::Subnet",
            "Replacement": "Conditional",
            "Details": [detail("VpcId", "Conditionally")],
        },
        {
            "Action": "Modify",
            "LogicalResourceId": "Network",
            "ResourceType": "AWS::EC2::VPC",
            "Replacement": "True",
            "PolicyAction": "ReplaceAndDelete",
            "Details": [detail("Tags", "Never"), detail("CidrBlock", "Always", **parameter)],
        },
        {
            "Action": "Remove",
            "LogicalResourceId": "Bucket",
            "ResourceType": "AWS::S3::Bucket",
            "PolicyAction": "Retain",
        },
        {
            "Action": "Remove",
            "LogicalResourceId": "Old",
            "ResourceType": "AWS::SQS::Queue",
            "PolicyAction": "Delete",
        },
    ]
    assert list(described(found)) == [
        "changes: REPLACE 1, DELETE 1, may replace 1, leave 1, change 1, create 1",
        "  REPLACE     Network (AWS::EC2::VPC): CidrBlock from NetworkPrefix, Tags; the old one is deleted",
        "  DELETE      Old (AWS::SQS::Queue)",
        "  may replace SubnetA (AWS::EC2::Subnet): VpcId",
        "  leave       Bucket (AWS::S3::Bucket); it stays outside the stack",
        "  change      IngestFunction (AWS::Lambda::Function): Code",
        "  create      1 AWS::X: Firewall",
    ]
    assert list(described([])) == ["changes: none"]


def test_a_dry_run_of_a_new_stack_leaves_no_trace(cloud: Cloud) -> None:
    code, said = dry_run("--email", "a@example.org")
    assert code == 0
    assert f"Create the stack {NAME} in us-east-1, account 123456789012, bucket {BUCKET}." in said
    assert "create      2 AWS::DynamoDB::Table: IndexTable, LeaseTable" in said
    assert "at rest: about $" in said
    assert "permissions: " in said
    assert said.endswith("Nothing was changed.\n")
    assert statuses(cloud) == []
    assert cloud.aws.client("s3").list_buckets()["Buckets"] == []
    wrote = [call for call in cloud.calls if call.startswith(("Put", "Create", "Execute", "Delete"))]
    assert [call.partition(" ")[0] for call in wrote] == ["CreateChangeSet", "DeleteChangeSet", "DeleteStack"]


def test_a_dry_run_of_an_update_leaves_the_stack(cloud: Cloud) -> None:
    (cloud.folder / "template.yaml").rename(cloud.folder / "source.yaml")
    cloud.deploy()
    (cloud.folder / "source.yaml").rename(cloud.folder / "template.yaml")
    before = cloud.stack.read()
    host = cloud.launch()
    cloud.calls.clear()
    code, said = dry_run("--instance-type", "c7g.large")
    assert code == 0
    assert "Update the stack" in said
    assert "the functions have 2" in said
    assert "hosts of another type are ended" in said
    assert cloud.stack.read() == before
    state = cloud.aws.client("ec2").describe_instances(InstanceIds=[host])
    assert state["Reservations"][0]["Instances"][0]["State"]["Name"] == "running"
    wrote = [call for call in cloud.calls if call.startswith(("Put", "Create", "Execute", "Delete"))]
    assert [call.partition(" ")[0] for call in wrote] == ["CreateChangeSet", "DeleteChangeSet"]


@pytest.mark.parametrize("status", ["ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_FAILED", "UPDATE_IN_PROGRESS"])
def test_a_dry_run_of_a_stack_in_trouble_only_tells(cloud: Cloud, status: str) -> None:
    (cloud.folder / "template.yaml").rename(cloud.folder / "source.yaml")
    cloud.deploy()
    (cloud.folder / "source.yaml").rename(cloud.folder / "template.yaml")
    cloud.pretend(status)
    cloud.calls.clear()
    code, said = dry_run()
    assert code == 0
    assert status in said
    assert statuses(cloud) == [status]
    assert not [call for call in cloud.calls if call.startswith(("Put", "Create", "Execute", "Delete"))]


def test_a_change_set_that_is_refused_is_told(cloud: Cloud) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": ""}}, "CreateChangeSet")

    cloud.aws.client("cloudformation").meta.events.register(
        "before-parameter-build.cloudformation.CreateChangeSet", refuse
    )
    plan = make_plan(DeployOptions(NAME), cloud.aws, cloud.stack)
    said = "\n".join(changes(plan, cloud.stack, cloud.folder / "template.yaml"))
    assert "the changes cannot be told: CloudFormation refused: AccessDenied" in said


@pytest.mark.parametrize(
    ("service", "operation", "code"),
    [("cloudformation", "DescribeStacks", "AccessDenied"), ("s3", "HeadBucket", "403")],
)
def test_who_may_not_even_look_hears_what_is_missing(
    cloud: Cloud, service: Any, operation: str, code: str
) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": code, "Message": ""}}, operation)

    event = f"before-parameter-build.{service}.{operation}"
    cloud.aws.client(service).meta.events.register(event, refuse)
    status, said = dry_run()
    assert status == 0
    assert said.startswith(f"A new stack {NAME}:\n")
    assert "at rest: about $" in said
    assert "The account cannot be compared with that: " in said
    assert "permissions: not checked" in said


def test_options_that_do_not_fit_are_refused_by_a_dry_run_too(cloud: Cloud) -> None:
    with pytest.raises(UsageError, match="there is no bucket"):
        dry_run("--existing-bucket", "none-there")


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_REGION"])
def test_without_an_account_the_template_and_the_cost_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    for name in ("AWS_PROFILE", missing, *(["AWS_DEFAULT_REGION"] if missing == "AWS_REGION" else [])):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(release, "source_tree", lambda: ROOT)
    code, said = dry_run()
    assert code == 0
    assert "5 AWS::Serverless::Function: DeadLetterFunction, IngestFunction" in said
    assert "at rest: about $" in said
    assert "Without an account, no more can be told: no AWS" in said
    with pytest.raises(UsageError, match="is none of"):
        dry_run("--instance-type", "p5.48xlarge")
    with pytest.raises(UsageError, match="the parameter EventMapping cannot be given by itself"):
        dry_run("--parameter", "EventMapping=false")
