"""The limits of an account and missing permissions, with AWS's answers played by botocore's Stubber."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from ec2_runner.stack.account import (
    LEAST_CONCURRENCY,
    QUEUES,
    SCHEDULES,
    VCPUS,
    limits_too_low,
    missing_permissions,
    policy_statements,
)
from ec2_runner.stack.cost import HOST_TYPES
from tests.support.aws import ROOT, resources, template

ACCOUNT, REGION = "123456789012", "eu-central-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/aws-reserved/sso.amazonaws.com/Deployer"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/Deployer/me"


class PlayedAws:
    """Play an account: its clients give the prepared answers, and are asked nothing else."""

    account, region = ACCOUNT, REGION

    def __init__(self) -> None:
        self.stubs: dict[str, Stubber] = {}

    def stub(self, service: str) -> Stubber:
        if service not in self.stubs:
            keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
            self.stubs[service] = Stubber(boto3.client(service, REGION, **keys))  # type: ignore[call-overload]
            self.stubs[service].activate()
        return self.stubs[service]

    def client(self, service: str) -> Any:
        return self.stub(service).client

    def limits(self, functions: int, vcpus: float) -> None:
        limit = {"UnreservedConcurrentExecutions": functions, "ConcurrentExecutions": 1000}
        self.stub("lambda").add_response("get_account_settings", {"AccountLimit": limit})
        request = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
        self.stub("service-quotas").add_response("get_service_quota", {"Quota": {"Value": vcpus}}, request)

    def caller(self, arn: str) -> None:
        self.stub("sts").add_response("get_caller_identity", {"Account": ACCOUNT, "Arn": arn})


@pytest.fixture
def aws() -> Iterator[Any]:
    made = PlayedAws()
    yield made
    for stub in made.stubs.values():
        stub.assert_no_pending_responses()


@pytest.mark.parametrize("functions", [8, 10, 1000])
def test_limits_that_suffice_are_not_mentioned(aws: Any, functions: int) -> None:
    aws.limits(functions, 2.0)
    assert list(limits_too_low(aws, "t3.medium", 2)) == []


def test_limits_that_are_too_low_are_said_with_what_to_do(aws: Any) -> None:
    aws.limits(10, 5.0)
    functions, vcpus = limits_too_low(aws, "c7i.large", 4, 3)
    assert "at most 10 functions at once" in functions
    assert "this stack up to 14: set MaximumConcurrency to 2, or ask AWS to raise quota L-B99A" in functions
    assert "at most 5 vCPUs at once" in vcpus
    assert "3 c7i.large have 6" in vcpus


def test_spot_hosts_have_a_limit_of_their_own(aws: Any) -> None:
    aws.limits(1000, 8.0)
    request = {"ServiceCode": "ec2", "QuotaCode": "L-34B43A08"}
    aws.stub("service-quotas").add_response("get_service_quota", {"Quota": {"Value": 0.0}}, request)
    (vcpus,) = limits_too_low(aws, "t3.medium", 2, 3, spot=True)
    assert "at most 0 vCPUs of Spot Instances at once" in vcpus
    assert "3 t3.medium have 6: ask AWS to raise quota L-34B43A08 of EC2, else dearer On-Demand" in vcpus


def test_where_no_parameter_helps_none_is_named(aws: Any) -> None:
    aws.limits(5, 8.0)
    (functions,) = limits_too_low(aws, "t3.medium", 2)
    assert "MaximumConcurrency" not in functions


def test_limits_that_may_not_be_looked_up_stop_nothing(aws: Any) -> None:
    aws.stub("lambda").add_client_error("get_account_settings", "AccessDeniedException")
    aws.stub("service-quotas").add_client_error("get_service_quota", "NoSuchResourceException")
    functions, vcpus = limits_too_low(aws, "t3.medium", 2)
    assert "was not checked: Lambda refused: AccessDeniedException" in functions
    assert "was not checked: Service Quotas refused: NoSuchResourceException" in vcpus


def test_the_figures_are_those_of_the_template() -> None:
    events = [
        event["Type"]
        for function in resources("AWS::Serverless::Function").values()
        for event in function["Events"].values()
    ]
    assert (events.count("SQS"), events.count("Schedule")) == (QUEUES, SCHEDULES)
    assert template()["Parameters"]["MaximumConcurrency"]["MinValue"] == LEAST_CONCURRENCY
    assert {kind.partition(".")[2] for kind in HOST_TYPES} <= VCPUS.keys()


def simulate(aws: Any, caller: str, denied: set[str] = frozenset()) -> list[dict[str, Any]]:  # type: ignore[assignment]
    """Have IAM answer, and return the requests that it gets."""
    requests: list[dict[str, Any]] = []
    iam = aws.client("iam")

    def answer(**request: Any) -> dict[str, Any]:
        requests.append(request)
        half = len(request["ActionNames"]) // 2
        last = "Marker" in request or not half
        names = request["ActionNames"][half:] if last else request["ActionNames"][:half]
        results = [
            {"EvalActionName": name, "EvalDecision": "implicitDeny" if name in denied else "allowed"}
            for name in names
        ]
        return {"EvaluationResults": results, "IsTruncated": not last, **({} if last else {"Marker": "m"})}

    iam.simulate_principal_policy = answer
    aws.caller(caller)
    if "assumed-role" in caller:
        role = {
            "Path": "/",
            "RoleName": "Deployer",
            "RoleId": "AROAAAAAAAAAAAAAAAAA",
            "Arn": ROLE,
            "CreateDate": "2026-01-01T00:00:00Z",
        }
        aws.stub("iam").add_response("get_role", {"Role": role}, {"RoleName": "Deployer"})
    return requests


def told(aws: Any) -> list[str]:
    return list(missing_permissions(aws, ROOT, "cxr", "x-rays"))


def test_missing_permissions_are_named(aws: Any) -> None:
    simulate(aws, SESSION, {"sqs:CreateQueue", "iam:PassRole", "ec2:CreateVpc"})
    first, *missing = told(aws)
    assert first.startswith("permissions: 3 are missing, see docs/policies/deploy.json")
    assert missing == ["  missing   ec2:CreateVpc", "  missing   iam:PassRole", "  missing   sqs:CreateQueue"]


def test_each_action_is_tried_on_the_resources_of_its_service(aws: Any) -> None:
    requests = simulate(aws, f"arn:aws:iam::{ACCOUNT}:user/me")
    assert told(aws) == ["permissions: none is missing"]
    for request in requests:
        (service,) = {action.partition(":")[0] for action in request["ActionNames"]}
        assert all(arn == "*" or arn.split(":")[2] == service for arn in request["ResourceArns"])
        assert request["PolicySourceArn"].endswith("user/me")
    passes = [request for request in requests if request["ActionNames"] == ["iam:PassRole"]]
    assert [request["ContextEntries"] for request in passes] == [
        [
            {
                "ContextKeyName": "iam:PassedToService",
                "ContextKeyValues": [f"{service}.amazonaws.com"],
                "ContextKeyType": "string",
            }
        ]
        for service in ("ec2", "lambda")
    ]
    assert all(request["ResourceArns"] == [f"arn:aws:iam::{ACCOUNT}:role/cxr-*"] for request in passes)


@pytest.mark.parametrize(
    "caller", [f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:sts::{ACCOUNT}:federated-user/me"]
)
def test_a_caller_that_iam_does_not_simulate_is_said(aws: Any, caller: str) -> None:
    aws.caller(caller)
    assert told(aws) == [f"permissions: not checked, since IAM simulates only users and roles, not {caller}"]


def test_a_simulation_that_is_refused_is_said(aws: Any) -> None:
    aws.caller(f"arn:aws:iam::{ACCOUNT}:user/me")
    aws.stub("iam").add_client_error("simulate_principal_policy", "AccessDenied")
    (line,) = told(aws)
    assert line.startswith("permissions: not checked (IAM refused: AccessDenied")
    assert "docs/policies/network.json list what a deploy needs" in line


def test_the_policies_fit_a_stack_and_its_partition() -> None:
    found = policy_statements(ROOT, "cxr", ACCOUNT, "cn-north-1", "x-rays", "aws-cn")
    text = str(found)
    assert not any(word in text for word in ("STACK", "ACCOUNT", "REGION", "BUCKET", "arn:aws:"))
    assert f"arn:aws-cn:sqs:cn-north-1:{ACCOUNT}:cxr-*" in text
    assert "'ec2.amazonaws.com.cn', 'lambda.amazonaws.com'" in text
