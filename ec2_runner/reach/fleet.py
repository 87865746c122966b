"""The one EC2 instance that judges: found, started, launched, replaced. Never waits for any of it.

States: docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from ec2_runner.reach.lease import Holding, Lease
from pipeline.errors import HostNotReady

log = logging.getLogger(__name__)

State = Literal["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]
_GONE = ("shutting-down", "terminated")
_ALIVE = ["pending", "running", "stopping", "stopped"]
_CLAIM_SECONDS = 60.0  # for a handler to launch; then another one does, and gets the same instance
_SHOWN_SECONDS = (
    120.0  # after a launch, EC2 may not know the instance everywhere: it is eventually consistent
)
_SOON = 20.0  # seconds until a change of state is worth a look
_REPLACE_SECONDS = (
    600.0  # a host that runs and that nobody reaches for so long is replaced: first boots are slow
)
_SPELL_SECONDS = 180.0  # failures further apart are no spell: others may have reached it meanwhile
_IMPAIRED_SECONDS = 120.0  # the same, where EC2 itself says that something is wrong with it
_JUST_STARTED_SECONDS = 120.0  # a host that is stopped again so soon was never at work
# Why an instance is stopped that was in order.
# docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
_ORDERLY = {
    *("Client.UserInitiatedShutdown", "Client.UserInitiatedHibernate", "Client.InstanceInitiatedShutdown"),
    *("Server.ScheduledStop", "Server.SpotInstanceShutdown", "Server.SpotInstanceStop"),
}
_NOT_QUITE_STOPPED = "IncorrectInstanceState"  # or another handler has just started it
# No room for another host there or of that kind.
# docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_NO_ROOM = {
    *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientFreeAddressesInSubnet"),
    *("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "Unsupported"),
    "IdempotentParameterMismatch",  # the token is taken by another launch: a new generation has a new one
}


@dataclass(frozen=True)
class Instance:
    """What EC2 says of an instance."""

    id: str
    state: State
    address: str  # private; empty while there is none
    launched_at: float  # seconds since 1970, of the last start
    type: str = ""  # such as t3.medium
    reason: str = ""  # EC2's code for its last change of state


@dataclass(frozen=True)
class Placement:
    """Where a generation is launched."""

    subnet: str
    instance_type: str


class Fleet:
    """The host of one stack, through a boto3 EC2 client and the lease."""

    def __init__(
        self,
        ec2: Any,
        lease: Lease,
        stack: str,
        placements: list[Placement],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.lease, self._ec2, self._stack, self._placements, self._now = lease, ec2, stack, placements, now

    def host(self) -> Instance:
        """The running host; HostNotReady says what is being done where there is none."""
        holding = self._holding()
        instance = self._of(holding) or self._adopted(holding) or self._launched(holding)
        if instance.state == "running":
            return instance
        if self._has_reverted(instance):
            why = f"EC2 took a start back ({instance.reason or 'no reason given'})"
            self._replace(instance, holding, why, 120)
        if instance.state == "stopped":
            self._start(instance, holding)
        if instance.state in _GONE:
            self.lease.retire(holding.generation)
        raise HostNotReady(f"the host is {instance.state}", _SOON)

    def seen(self) -> Instance | None:
        """The host in whatever state, gone too; None where there is none. Changes nothing."""
        return self._of(self.lease.read())

    def unreachable(self, instance: Instance) -> None:
        """Note that a running host could not be reached; HostNotReady when it stays so, and is replaced."""
        holding, now = self.lease.read(), self._now()
        if holding.instance_id != instance.id:
            return
        is_new = now - holding.unreachable_at > _SPELL_SECONDS
        since = now if is_new else holding.unreachable_since
        self.lease.note_unreachable(instance.id, since, now)
        patience = _IMPAIRED_SECONDS if self._is_impaired(instance) else _REPLACE_SECONDS
        if now - max(since, instance.launched_at) > patience:
            self._replace(instance, holding)

    def reached(self, instance: Instance) -> None:
        """Forget that it could not be reached."""
        if self.lease.read().unreachable_since:
            self.lease.clear_unreachable(instance.id)

    def instances(self) -> list[Instance]:
        """All instances of the stack that are not gone, oldest first."""
        filters = [
            {"Name": "tag:cxr:stack", "Values": [self._stack]},
            {"Name": "instance-state-name", "Values": _ALIVE},
        ]
        found = self._ask("describe_instances", Filters=filters)
        return sorted(_instances(found), key=lambda instance: instance.launched_at)

    def stop(self, instance: Instance) -> None:
        """Stop an instance: it keeps its disk and its name."""
        self._ask("stop_instances", InstanceIds=[instance.id])

    def terminate(self, instance: Instance) -> None:
        """End an instance for good."""
        self._ask("terminate_instances", InstanceIds=[instance.id])

    def _holding(self) -> Holding:
        holding = self.lease.read()
        if not holding.generation:
            # Not 1: the tokens of a stack of the same name, deleted today, are remembered by EC2.
            self.lease.begin(int(self._now()))
            holding = self.lease.read()
        return holding

    def _of(self, holding: Holding) -> Instance | None:
        """The instance that holds the lease; gone ones too."""
        if holding.instance_id is None:
            return None
        try:
            (instance,) = _instances(self._ec2.describe_instances(InstanceIds=[holding.instance_id]))
        except (ValueError, ClientError, BotoCoreError) as error:
            if error_code(error) not in ("ValueError", "InvalidInstanceID.NotFound"):
                raise HostNotReady(f"EC2 refused describe_instances: {error_code(error)}") from error
            fresh = self._now() - holding.launched_at < _SHOWN_SECONDS
            return Instance(holding.instance_id, "pending" if fresh else "terminated", "", 0)
        return instance

    def _adopted(self, holding: Holding) -> Instance | None:
        """An instance of ours that the lease does not know: a launch whose handler died before it said so."""
        found = [one for one in self.instances() if not self._has_reverted(one)]  # one may be protected
        if not found or not self.lease.hold(holding.generation, found[-1].id, self._now()):
            return None
        return found[-1]

    def _launched(self, holding: Holding) -> Instance:
        """A new instance, in the first place that has room."""
        generation, now = holding.generation, self._now()
        for _ in self._placements:
            if not self.lease.claim(generation, now, now + _CLAIM_SECONDS):
                raise HostNotReady("another handler launches the host", _SOON)
            try:
                (instance,) = _instances({"Reservations": [self._run(generation)]})
            except ClientError as error:
                if error_code(error) not in _NO_ROOM:
                    reason = f"EC2 refused to launch a host: {error_code(error)}"
                    raise HostNotReady(reason, 120, is_fault=True) from error
                log.warning("no host in this subnet, of this type: %s", error_code(error))
                self.lease.retire(generation)
                generation += 1
            except BotoCoreError as error:
                raise HostNotReady(f"EC2 did not answer: {type(error).__name__}") from error
            else:
                self.lease.hold(generation, instance.id, now)
                return instance
        raise HostNotReady("no room for a host in any subnet, of any type", 120, is_fault=True)

    def _run(self, generation: int) -> dict[str, Any]:
        place = self._placements[generation % len(self._placements)]
        tags = {"cxr:stack": self._stack, "cxr:generation": str(generation)}
        answer: dict[str, Any] = self._ec2.run_instances(
            MinCount=1,
            MaxCount=1,
            LaunchTemplate={"LaunchTemplateName": f"{self._stack}-host", "Version": "$Latest"},
            SubnetId=place.subnet,
            InstanceType=place.instance_type,
            ClientToken=f"{self._stack}-{generation}",
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
                }
            ],
        )
        return answer

    def _start(self, instance: Instance, holding: Holding) -> None:
        try:
            self._ec2.start_instances(InstanceIds=[instance.id])
        except ClientError as error:
            if error_code(error) in _NO_ROOM:
                self._replace(instance, holding)
            if error_code(error) != _NOT_QUITE_STOPPED:
                raise HostNotReady(f"EC2 refused to start the host: {error_code(error)}", 60, True) from error
        except BotoCoreError as error:
            raise HostNotReady(f"EC2 did not answer: {type(error).__name__}") from error

    def _has_reverted(self, instance: Instance) -> bool:
        """Return whether EC2 took an accepted start back: no capacity, or a key it may not use."""
        if instance.state != "stopped":
            return False
        if instance.reason:
            return instance.reason not in _ORDERLY
        return self._now() - instance.launched_at < _JUST_STARTED_SECONDS

    def _is_impaired(self, instance: Instance) -> bool:
        found = self._ask("describe_instance_status", InstanceIds=[instance.id])
        checks = [
            status[name]["Status"]
            for status in found["InstanceStatuses"]
            for name in ("InstanceStatus", "SystemStatus")
        ]
        return "impaired" in checks

    def _replace(
        self, instance: Instance, holding: Holding, why: str = "the host was lost", pause: float = 5
    ) -> None:
        log.error("the host is replaced: %s", why)
        if self.lease.retire(holding.generation):
            self.terminate(instance)
        raise HostNotReady(f"{why}; another one is launched", pause, is_fault=True)

    def _ask(self, call: str, **request: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._ec2, call)(**request)
        except (ClientError, BotoCoreError) as error:
            raise HostNotReady(f"EC2 refused {call}: {error_code(error)}") from error
        return answer


def _instances(answer: dict[str, Any]) -> Iterator[Instance]:
    for reservation in answer["Reservations"]:
        for found in reservation["Instances"]:
            launched = found["LaunchTime"].timestamp()
            yield Instance(
                found["InstanceId"],
                found["State"]["Name"],
                found.get("PrivateIpAddress", ""),
                launched,
                found.get("InstanceType", ""),
                found.get("StateReason", {}).get("Code", ""),
            )


def error_code(error: Exception) -> str:
    """AWS's word for what it refused; the name of the error where it did not answer."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
