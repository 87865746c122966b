"""Manage the one EC2 instance that judges: find, start, launch and replace it, without waiting.

States: docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

from ec2_runner.reach.lease import Holding, Lease
from pipeline.aws.errors import AwsRefused, ask
from pipeline.aws.names import StackNames
from pipeline.errors import HostNotReady, StoreError

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import ReservationResponseTypeDef, ReservationTypeDef

_P = ParamSpec("_P")
_T = TypeVar("_T")
log = logging.getLogger(__name__)

InstanceState = Literal["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]
_GONE = ("shutting-down", "terminated")
_ALIVE = ["pending", "running", "stopping", "stopped"]
_CLAIM_SECONDS = 60.0  # time for a handler to launch; then another handler does, and gets the same instance
# After a launch, EC2 may not know the instance everywhere: it is eventually consistent.
_SHOWN_SECONDS = 120.0
_SOON = 20.0  # seconds until a change of state is likely
# A running host that nobody can reach for this long is replaced; first boots are slow.
_REPLACE_SECONDS = 600.0
_SPELL_SECONDS = 180.0  # failures further apart do not count together: others may have reached the host
_IMPAIRED_SECONDS = 120.0  # the same where EC2 itself reports the host as impaired
_JUST_STARTED_SECONDS = 120.0  # a host that stops again this soon never worked
_START_SECONDS = 60.0  # after EC2 accepted a start, it may show the host as stopped for so long
_MOST_STARTS = 3  # that EC2 accepts although the host stays stopped
# EC2 starts a host within a minute, and ends a system that does not stop by force within a few; ten minutes
# are far beyond both. AWS's advice for a stop that is stuck is to launch a replacement.
# docs.aws.amazon.com/AWSEC2/latest/UserGuide/TroubleshootingInstancesStopping.html
_PASSING_SECONDS = 600.0
# Between launches while EC2 ends each host, doubled for each loss. At most what a message in SQS can wait.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 60.0, 900.0
# Reasons for which an intact instance is stopped or ended.
# docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
_ORDERLY = {
    *("Client.UserInitiatedShutdown", "Client.UserInitiatedHibernate", "Client.InstanceInitiatedShutdown"),
    *("Server.ScheduledStop", "Server.SpotInstanceShutdown", "Server.SpotInstanceStop"),
    "Server.SpotInstanceTermination",
}
_ADVICE = {  # where the code alone says too little
    "Client.InternalError": ": mostly a disk encrypted with a KMS key that the functions may not use",
    "Client.VolumeLimitExceeded": ": the account's limit of EBS volumes",
    "Client.InvalidSnapshot.NotFound": ": the image's snapshot is gone",
}
_NOT_QUITE_STOPPED = "IncorrectInstanceState"  # or another handler has just started it
# Codes for no room for another host in that place or of that type.
# docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_NO_ROOM = {
    *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientFreeAddressesInSubnet"),
    *("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "Unsupported"),
}
# The token was used by a launch elsewhere or of another type: by a handler of another release.
_TOKEN_USED = "IdempotentParameterMismatch"


@dataclass(frozen=True)
class Instance:
    """Describe an instance as EC2 does."""

    id: str
    state: InstanceState
    address: str  # private; empty while there is none
    launched_at: float  # of the last start, in seconds since 1970
    type: str = ""  # such as t3.medium
    reason: str = ""  # EC2's code for its last change of state


@dataclass(frozen=True)
class Placement:
    """Say where a host can be launched, and as which type; the type asked for comes first."""

    subnet: str
    instance_type: str


class Fleet:
    """Manage the host of one stack, through a boto3 EC2 client and the lease."""

    def __init__(
        self,
        ec2: "EC2Client",
        lease: Lease,
        stack: str,
        placements: list[Placement],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.lease, self._ec2, self._stack, self._placements, self._now = lease, ec2, stack, placements, now

    def host(self) -> Instance:
        """Return the running host; raise HostNotReady, with what is being done, where there is none."""
        holding = self._holding()
        instance = self._of(holding) or self._adopted(holding) or self._launched(holding)
        if instance.state == "running":
            return instance
        if self._has_reverted(instance):
            why = f"EC2 reverted a start ({instance.reason or 'no reason given'})"
            self._replace(instance, holding, why, 120, is_room_missing=True)
        if instance.state == "stopped":
            self._start(instance, holding)
        if instance.state in _GONE:
            self._mourn(instance, holding)
        self._wait_out(instance, holding)
        raise HostNotReady(f"the host is {instance.state}", _SOON)

    def seen(self) -> Instance | None:
        """Return the host in whatever state, even gone; None where there is none. Changes nothing."""
        return self._of(self.lease.read())

    def unreachable(self, instance: Instance) -> None:
        """Note that a running host could not be reached.

        If it stays so for too long, the host is replaced and HostNotReady raised.
        """
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
        """Forget all failures to have a host and to reach it."""
        if self.lease.read().has_history:
            self.lease.note_reached(instance.id)

    def instances(self, shutting_down: bool = False) -> list[Instance]:
        """Return the instances that are not gone, oldest first; on request also those shutting down."""
        states = [*_ALIVE, *(["shutting-down"] if shutting_down else [])]
        found = _ask(
            self._ec2.describe_instances,
            Filters=[
                {"Name": "tag:cxr:stack", "Values": [self._stack]},
                {"Name": "instance-state-name", "Values": states},
            ],
        )
        return sorted(_instances(found["Reservations"]), key=lambda instance: instance.launched_at)

    def stop(self, instance: Instance) -> None:
        """Stop an instance: it keeps its disk and its name."""
        _ask(self._ec2.stop_instances, InstanceIds=[instance.id])

    def terminate(self, instance: Instance) -> None:
        """End an instance for good."""
        _ask(self._ec2.terminate_instances, InstanceIds=[instance.id])

    def _holding(self) -> Holding:
        holding = self.lease.read()
        if not holding.generation:
            # Not 1: EC2 remembers the tokens of a stack of the same name that was deleted today.
            self.lease.begin(int(self._now()))
            holding = self.lease.read()
        return holding

    def _of(self, holding: Holding) -> Instance | None:
        """Return the instance that holds the lease, even if it is gone."""
        if holding.instance_id is None:
            return None
        try:
            answer = ask("EC2", self._ec2.describe_instances, InstanceIds=[holding.instance_id])
            found = list(_instances(answer["Reservations"]))
        except AwsRefused as error:
            if error.code != "InvalidInstanceID.NotFound":
                raise HostNotReady(str(error)) from error
            found = []
        except StoreError as error:
            raise HostNotReady(str(error)) from error
        if found:
            return found[0]
        fresh = self._now() - holding.launched_at < _SHOWN_SECONDS
        return Instance(holding.instance_id, "pending" if fresh else "terminated", "", 0)

    def _adopted(self, holding: Holding) -> Instance | None:
        """Return an instance that the lease does not know: its handler died between launch and lease."""
        # One that was replaced may still be there: protected from termination, or stuck.
        alive = [one for one in self.instances() if one.id != holding.replaced_id]
        found = [one for one in alive if not self._has_reverted(one)]
        if not found or not self.lease.hold(holding.generation, found[-1].id, self._now()):
            return None
        return found[-1]

    def _launched(self, holding: Holding) -> Instance:
        """Launch an instance in the first place that has room, and return it."""
        now = self._now()
        if now < holding.launch_after:
            raise HostNotReady(*_put_off(holding.ended_by or "", holding.launch_after - now), is_fault=True)
        for _ in self._placements:
            generation = holding.generation
            if not self.lease.claim(generation, now, now + _CLAIM_SECONDS):
                raise HostNotReady("another handler is launching the host", _SOON)
            try:
                (instance,) = _instances([self._run(generation, holding.attempt)])
            except AwsRefused as error:
                if error.code == _TOKEN_USED:
                    self.lease.retire(generation)  # the next look adopts the instance of the other launch
                    raise HostNotReady("this launch was made already, as another one", _SOON) from error
                if error.code not in _NO_ROOM:
                    reason = f"EC2 refused to launch a host: {error.code}"
                    raise HostNotReady(reason, 120, is_fault=True) from error
                log.warning("no capacity for a host of this type in this subnet: %s", error.code)
                self.lease.retire(generation, attempt=holding.attempt + 1)
                holding = self.lease.read()  # another handler may have been faster
            except StoreError as error:
                raise HostNotReady(str(error)) from error
            else:
                self.lease.hold(generation, instance.id, now)
                return instance
        raise HostNotReady("no capacity for a host of any type in any subnet", 120, is_fault=True)

    def _run(self, generation: int, attempt: int) -> "ReservationResponseTypeDef":
        place = self._placements[attempt % len(self._placements)]
        tags = {"cxr:stack": self._stack, "cxr:generation": str(generation)}
        template = StackNames(self._stack).launch_template
        return ask(
            "EC2",
            self._ec2.run_instances,
            MinCount=1,
            MaxCount=1,
            LaunchTemplate={"LaunchTemplateName": template, "Version": "$Latest"},
            SubnetId=place.subnet,
            InstanceType=place.instance_type,  # type: ignore[arg-type]  # the stubs lack newer types
            ClientToken=f"{self._stack}-{generation}",
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
                }
            ],
        )

    def _start(self, instance: Instance, holding: Holding) -> None:
        now = self._now()
        if now - holding.started_at < _START_SECONDS:
            return  # EC2 does not show it yet, or is about to take it back
        if holding.starts >= _MOST_STARTS:
            why = f"EC2 accepted {holding.starts} starts, and the host is still stopped"
            self._replace(instance, holding, why, is_room_missing=True)
        try:
            ask("EC2", self._ec2.start_instances, InstanceIds=[instance.id])
        except AwsRefused as error:
            if error.code in _NO_ROOM:
                why = f"EC2 has no capacity to start the host ({error.code})"
                self._replace(instance, holding, why, is_room_missing=True)
            if error.code != _NOT_QUITE_STOPPED:
                raise HostNotReady(f"EC2 refused to start the host: {error.code}", 60, True) from error
        except StoreError as error:
            raise HostNotReady(str(error)) from error
        else:
            self.lease.note_start(instance.id, now, now - _START_SECONDS)

    def _mourn(self, instance: Instance, holding: Holding) -> None:
        """Begin the next generation after EC2 or somebody ended the host; raise HostNotReady.

        After a first end by somebody's wish the next launch follows at once. Otherwise each loss doubles the
        pause before the next launch, so that a launch that cannot succeed is not repeated without end.
        """
        code = instance.reason
        is_room_missing = code.partition(".")[2] in _NO_ROOM
        attempt = holding.attempt + is_room_missing
        if is_room_missing and attempt % len(self._placements):
            log.warning("no capacity for a host of this type in this subnet: %s", code)
            self.lease.retire(holding.generation, attempt=attempt)
            reason = f"EC2 has no capacity for this host ({code}); another type or subnet is tried"
            raise HostNotReady(reason, 5)
        losses = holding.losses + 1
        if losses == 1 and (not code or code in _ORDERLY):
            self.lease.retire(holding.generation, losses=losses)
            raise HostNotReady(f"the host is {instance.state}", _SOON)
        pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(losses - 1, 10), _LONGEST_PAUSE_SECONDS)
        log.error("EC2 ended the host: %s", code or "no reason given")
        after, generation = self._now() + pause, holding.generation
        self.lease.retire(generation, attempt=attempt, losses=losses, launch_after=after, ended_by=code)
        raise HostNotReady(*_put_off(code, pause), is_fault=True)

    def _wait_out(self, instance: Instance, holding: Holding) -> None:
        """Replace a host that stays `pending` or `stopping` for too long."""
        if instance.state not in ("pending", "stopping"):
            return
        now = self._now()
        if holding.passing != instance.state:
            self.lease.note_passing(instance.id, instance.state, now)
        elif now - holding.passing_since > _PASSING_SECONDS:
            minutes = f"{(now - holding.passing_since) / 60:.0f} minutes"
            self._replace(instance, holding, f"the host was {instance.state} for {minutes}")

    def _has_reverted(self, instance: Instance) -> bool:
        """Return whether EC2 reverted an accepted start: no capacity, or a key that it may not use."""
        if instance.state != "stopped":
            return False
        if instance.reason:
            return instance.reason not in _ORDERLY
        return self._now() - instance.launched_at < _JUST_STARTED_SECONDS

    def _is_impaired(self, instance: Instance) -> bool:
        found = _ask(self._ec2.describe_instance_status, InstanceIds=[instance.id])
        return any(
            "impaired" in (status["InstanceStatus"]["Status"], status["SystemStatus"]["Status"])
            for status in found["InstanceStatuses"]
        )

    def _replace(
        self,
        instance: Instance,
        holding: Holding,
        why: str = "the host was lost",
        pause: float = 5,
        is_room_missing: bool = False,
    ) -> None:
        log.error("replacing the host: %s", why)
        attempt = holding.attempt + is_room_missing
        if self.lease.retire(holding.generation, attempt=attempt, replaced_id=instance.id):
            try:
                self.terminate(instance)
            except HostNotReady as error:  # the reaper tries again
                log.error("the instance %s could not be ended: %s", instance.id, error)
        raise HostNotReady(f"{why}; another one is being launched", pause, is_fault=True)


def _put_off(code: str, seconds: float) -> tuple[str, float]:
    """Return what to say while the next launch is put off, and when to ask again."""
    reason = f"{code or 'no reason given'}{_ADVICE.get(code, '')}"
    return f"EC2 ended the host ({reason}); another one is launched in {seconds:.0f} s", seconds + 1


def _ask(call: Callable[_P, _T], *arguments: _P.args, **request: _P.kwargs) -> _T:
    try:
        return ask("EC2", call, *arguments, **request)
    except StoreError as error:
        raise HostNotReady(str(error)) from error


def _instances(
    reservations: "Iterable[ReservationTypeDef | ReservationResponseTypeDef]",
) -> Iterator[Instance]:
    for reservation in reservations:
        for one in reservation["Instances"]:
            launched = one["LaunchTime"].timestamp()
            yield Instance(
                one["InstanceId"],
                one["State"]["Name"],
                one.get("PrivateIpAddress", ""),
                launched,
                one.get("InstanceType", ""),
                one.get("StateReason", {}).get("Code", ""),
            )
