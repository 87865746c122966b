"""The hosts of a stack, for those who change or remove it."""

import time
from collections.abc import Callable
from typing import Any

from pipeline.errors import StackError

_ALIVE = ["pending", "running", "stopping", "stopped"]
_POLL_SECONDS, _DEADLINE_SECONDS = 5.0, 600.0


def terminate_hosts(ec2: Any, stack: str) -> list[str]:
    """End all hosts of a stack for good; returns their ids. The jobs that they have come again."""
    ids = _find(ec2, stack, _ALIVE)
    if ids:
        ec2.terminate_instances(InstanceIds=ids)
    return ids


def wait_gone(
    ec2: Any,
    stack: str,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until a stack has no host, not even one that shuts down: it holds the stack's network."""
    until = now() + _DEADLINE_SECONDS
    while ids := _find(ec2, stack, [*_ALIVE, "shutting-down"]):
        if now() > until:
            raise StackError(f"these hosts do not end: {', '.join(ids)}; end them in the EC2 console")
        sleep(_POLL_SECONDS)


def _find(ec2: Any, stack: str, states: list[str]) -> list[str]:
    filters = [
        {"Name": "tag:cxr:stack", "Values": [stack]},
        {"Name": "instance-state-name", "Values": states},
    ]
    pages = ec2.get_paginator("describe_instances").paginate(Filters=filters)
    return [
        instance["InstanceId"]
        for page in pages
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    ]
