"""Compare the limits of an AWS account with what a stack may use at once."""

from collections.abc import Iterator
from typing import Any, Protocol

from pipeline.aws.clients import Aws
from pipeline.aws.errors import ask
from pipeline.errors import StoreError

# What template.yaml has: queues, each of which may run a function MaximumConcurrency times, and schedules.
QUEUES, SCHEDULES = 3, 2
# docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html: the limit of a new account may be 10
_CONCURRENCY = "quota L-B99A9384 of Lambda"
# docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html#ec2-on-demand-instances-limits
_STANDARD = "L-1216C47A"  # vCPUs of all running On-Demand instances of the types A, C, D, H, I, M, R, T, Z
_VCPUS = {"medium": 2, "large": 2, "xlarge": 4, "2xlarge": 8}  # of every type in cost.HOST_TYPES


class _Quotas(Protocol):
    """The part of boto3's client of Service Quotas that is used here; its stubs are not installed."""

    def get_service_quota(self, *, ServiceCode: str, QuotaCode: str) -> dict[str, Any]: ...


def functions_at_once(concurrency: int) -> int:
    """Return how many functions of a stack may run at once, with that MaximumConcurrency."""
    return QUEUES * concurrency + SCHEDULES


def too_low(aws: Aws, instance_type: str, concurrency: int) -> Iterator[str]:
    """Yield a sentence for each limit of the account that is too low, or that may not be looked up."""
    try:
        yield from _lambda(aws, concurrency)
    except StoreError as error:
        yield f"the limit of functions at once was not checked: {error}"
    try:
        yield from _ec2(aws, instance_type)
    except StoreError as error:
        yield f"the limit of EC2's vCPUs was not checked: {error}"


def _lambda(aws: Aws, concurrency: int) -> Iterator[str]:
    limit = ask("Lambda", aws.client("lambda").get_account_settings)["AccountLimit"]
    free, most = limit["UnreservedConcurrentExecutions"], functions_at_once(concurrency)
    if free >= most:
        return
    fits = (free - SCHEDULES) // QUEUES
    lower = f"set MaximumConcurrency to {fits}, or " if fits >= 2 else ""  # 2 is Lambda's minimum
    yield (
        f"Lambda runs at most {free} functions at once in this account and region, and this stack up to"
        f" {most}: {lower}ask AWS to raise {_CONCURRENCY}, else X-rays wait longer"
    )


def _ec2(aws: Aws, instance_type: str) -> Iterator[str]:
    quotas: _Quotas = aws.client("service-quotas")
    found = ask("Service Quotas", quotas.get_service_quota, ServiceCode="ec2", QuotaCode=_STANDARD)
    free, needed = float(found["Quota"]["Value"]), _VCPUS[instance_type.rpartition(".")[2]]
    if free < needed:
        yield (
            f"EC2 runs at most {free:.0f} vCPUs at once in this account and region, and a {instance_type} has"
            f" {needed}: ask AWS to raise quota {_STANDARD} of EC2, else no host starts"
        )
