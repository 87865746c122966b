"""Look at what an AWS account allows: the limits that are too low for a stack, the missing permissions."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from pipeline.aws.clients import Aws
from pipeline.aws.errors import ask
from pipeline.errors import StoreError

# What template.yaml has: queues, each of which may run a function MaximumConcurrency times, and schedules.
QUEUES, SCHEDULES, LEAST_CONCURRENCY = 3, 2, 2
# docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: the limit of a new account may be 10.
_FUNCTIONS = "quota L-B99A9384 of Lambda"
# The vCPUs of all running On-Demand instances of the types A, C, D, H, I, M, R, T and Z:
# docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html
_STANDARD = "L-1216C47A"
_SPOT = "L-34B43A08"  # the same of all Spot Instance requests
VCPUS = {"medium": 2, "large": 2, "xlarge": 4, "2xlarge": 8}  # of each size in cost.HOST_TYPES
_EC2 = "ec2.amazonaws.com"  # the principal of EC2, which in China has another name: ec2.${AWS::URLSuffix}
# What a person who deploys needs, for the commands' own calls and for those of CloudFormation in their name.
POLICIES = tuple(f"docs/policies/{name}.json" for name in ("deploy", "cloudformation", "network"))


class _Quotas(Protocol):
    """Describe the part of boto3's Service Quotas client that is used here."""

    def get_service_quota(self, *, ServiceCode: str, QuotaCode: str) -> dict[str, Any]: ...


class _Iam(Protocol):
    """Describe the part of boto3's IAM client that is used here."""

    def get_role(self, *, RoleName: str) -> dict[str, Any]: ...

    def simulate_principal_policy(self, **request: Any) -> dict[str, Any]: ...


def limits_too_low(
    aws: Aws, instance_type: str, concurrency: int, hosts: int = 1, spot: bool = False
) -> Iterator[str]:
    """Yield a sentence for each limit that is too low for a stack, or that may not be looked up."""
    looks: dict[str, Callable[[], str | None]] = {
        "functions at once": lambda: _functions(aws, concurrency),
        "EC2's vCPUs": lambda: _vcpus(aws, instance_type, hosts),
    }
    if spot:
        looks["EC2's Spot vCPUs"] = lambda: _vcpus(aws, instance_type, hosts, _SPOT)
    for what, look in looks.items():
        try:
            found = look()
        except StoreError as error:
            found = f"the account's limit of {what} was not checked: {error}"
        if found:
            yield found


def missing_permissions(aws: Aws, root: Path, stack: str, bucket: str) -> Iterator[str]:
    """Yield lines that name the actions of the checkout's policies that these credentials may not do."""
    try:
        caller = ask("AWS", aws.client("sts").get_caller_identity)["Arn"]
        iam: _Iam = aws.client("iam")
        identity = _identity(iam, caller)
        if identity is None:
            yield f"permissions: not checked, since IAM simulates only users and roles, not {caller}"
            return
        statements = policy_statements(root, stack, aws.account, aws.region, bucket, caller.split(":")[1])
        missing = sorted({action for part in statements for action in _denied(iam, identity, part)})
    except StoreError as error:
        yield f"permissions: not checked ({error}); {', '.join(POLICIES)} list what a deploy needs"
        return
    if not missing:
        yield "permissions: none is missing"
        return
    yield f"permissions: {len(missing)} are missing, see {', '.join(POLICIES)}"
    yield from (f"  missing   {action}" for action in missing)


def policy_statements(
    root: Path, stack: str, account: str, region: str, bucket: str, partition: str = "aws"
) -> list[dict[str, Any]]:
    """Return the statements of the checkout's policies for one stack."""
    text = json.dumps(
        [part for name in POLICIES for part in json.loads((root / name).read_text("utf-8"))["Statement"]]
    )
    words = {
        "STACK": stack,
        "ACCOUNT": account,
        "REGION": region,
        "BUCKET": bucket,
        "arn:aws:": f"arn:{partition}:",
        **({_EC2: f"{_EC2}.cn"} if partition == "aws-cn" else {}),
    }
    for word, value in words.items():
        text = text.replace(word, value)
    statements: list[dict[str, Any]] = json.loads(text)
    return statements


def _functions(aws: Aws, concurrency: int) -> str | None:
    limit = ask("Lambda", aws.client("lambda").get_account_settings)["AccountLimit"]
    free, most = limit["UnreservedConcurrentExecutions"], QUEUES * concurrency + SCHEDULES
    if free >= most:
        return None
    fits = (free - SCHEDULES) // QUEUES
    lower = f"set MaximumConcurrency to {fits}, or " if fits >= LEAST_CONCURRENCY else ""
    return (
        f"Lambda runs at most {free} functions at once in this account and region, and this stack up to"
        f" {most}: {lower}ask AWS to raise {_FUNCTIONS}, else X-rays wait longer"
    )


def _vcpus(aws: Aws, instance_type: str, hosts: int, quota: str = _STANDARD) -> str | None:
    quotas: _Quotas = aws.client("service-quotas")
    found = ask("Service Quotas", quotas.get_service_quota, ServiceCode="ec2", QuotaCode=quota)
    most, needed = float(found["Quota"]["Value"]), hosts * VCPUS[instance_type.rpartition(".")[2]]
    if most >= needed:
        return None
    what, otherwise = "vCPUs", "hosts do not start"
    if quota == _SPOT:
        what, otherwise = "vCPUs of Spot Instances", "dearer On-Demand hosts are launched"
    return (
        f"EC2 runs at most {most:.0f} {what} at once in this account and region, and {hosts} {instance_type}"
        f" have {needed}: ask AWS to raise quota {quota} of EC2, else {otherwise}"
    )


def _identity(iam: _Iam, caller: str) -> str | None:
    """Return the user or role behind a caller, as IAM names it; None where it is neither."""
    kind, _, name = caller.rpartition(":")[2].partition("/")
    if kind == "user":
        return caller
    if kind != "assumed-role":
        return None
    found = ask("IAM", iam.get_role, RoleName=name.partition("/")[0])  # its path is not in the caller's name
    return str(found["Role"]["Arn"])


def _denied(iam: _Iam, identity: str, statement: Mapping[str, Any]) -> Iterator[str]:
    """Yield the actions of one statement that IAM would not allow."""
    pairs = [pair for kind in statement.get("Condition", {}).values() for pair in kind.items()]
    by_service: dict[str, list[str]] = {}
    for action in _listed(statement["Action"]):
        by_service.setdefault(action.partition(":")[0], []).append(action)
    for service, actions in by_service.items():
        resources = [arn for arn in _listed(statement["Resource"]) if arn.split(":")[2:3] == [service]]
        request: dict[str, Any] = {
            "PolicySourceArn": identity,
            "ActionNames": actions,
            "ResourceArns": resources or ["*"],
        }
        for values in product(*(_listed(values) for _, values in pairs)):  # each has to be allowed
            context = [
                {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
                for (key, _), value in zip(pairs, values, strict=True)
            ]
            yield from _denied_by(iam, {**request, "ContextEntries": context})


def _denied_by(iam: _Iam, request: dict[str, Any]) -> Iterator[str]:
    """Yield the actions that one simulation does not allow, from all its pages."""
    while True:
        page = ask("IAM", iam.simulate_principal_policy, **request)
        for result in page["EvaluationResults"]:
            if result["EvalDecision"] != "allowed":
                yield str(result["EvalActionName"])
        if not page.get("IsTruncated"):
            break
        request = {**request, "Marker": page["Marker"]}


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
