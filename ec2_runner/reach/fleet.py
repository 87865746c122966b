"""See, launch, start, stop and end the EC2 instances of one stack.

States: docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from pipeline.aws.errors import AwsRefused, ask
from pipeline.aws.names import StackNames
from pipeline.errors import HostNotReady, StoreError

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import ReservationResponseTypeDef, ReservationTypeDef

_P = ParamSpec("_P")
_T = TypeVar("_T")

InstanceState = Literal["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]
GONE = ("shutting-down", "terminated")
_ALIVE = ["pending", "running", "stopping", "stopped"]
_LATEST = "$Latest"
_STACK, _SLOT, _GENERATION, _TEMPLATE = "cxr:stack", "cxr:slot", "cxr:generation", "cxr:template"  # tags


@dataclass(frozen=True)
class Instance:
    """Describe an instance as EC2 does."""

    id: str
    state: InstanceState
    address: str  # private; empty while there is none
    launched_at: float  # of the last start, in seconds since 1970
    type: str = ""  # such as t3.medium
    reason: str = ""  # EC2's code for its last change of state
    slot: int = 1
    template: str = ""  # version of the launch template; empty for an instance of an older release
    is_spot: bool = False


@dataclass(frozen=True)
class Placement:
    """Say where a host can be launched, as which type, and whether as a Spot Instance."""

    subnet: str
    instance_type: str
    is_spot: bool = False


class Fleet:
    """Manage the instances of one stack, through a boto3 EC2 client.

    All methods raise HostNotReady where EC2 refuses or does not answer, except `launch` and `start`, which
    raise AwsRefused or StoreError, since the reason matters.
    """

    def __init__(self, ec2: "EC2Client", stack: str, template: str = _LATEST) -> None:
        """Launch hosts from this version of the stack's launch template."""
        self._ec2, self._stack, self._template = ec2, stack, template

    def instances(self, shutting_down: bool = False) -> list[Instance]:
        """Return the instances that are not gone, oldest first; on request also those shutting down."""
        states = [*_ALIVE, *(["shutting-down"] if shutting_down else [])]
        found = _ask(
            self._ec2.describe_instances,
            Filters=[
                {"Name": f"tag:{_STACK}", "Values": [self._stack]},
                {"Name": "instance-state-name", "Values": states},
            ],
        )
        return sorted(_instances(found["Reservations"]), key=lambda instance: instance.launched_at)

    def find(self, instance_id: str) -> Instance | None:
        """Return an instance in whatever state; None where EC2 does not know it."""
        try:
            answer = ask("EC2", self._ec2.describe_instances, InstanceIds=[instance_id])
        except AwsRefused as error:
            if error.code != "InvalidInstanceID.NotFound":
                raise HostNotReady(str(error)) from error
            return None
        except StoreError as error:
            raise HostNotReady(str(error)) from error
        return next(_instances(answer["Reservations"]), None)

    def launch(self, place: Placement, slot: int, generation: int) -> Instance:
        """Launch an instance. EC2 makes one only, however often the launch of a generation is repeated."""
        tags = {
            _STACK: self._stack,
            _GENERATION: str(generation),
            _SLOT: str(slot),
            _TEMPLATE: self._template,
        }
        part = "" if slot == 1 else f".{slot}"  # no stack's name has a dot
        market: dict[str, Any] = {}
        if place.is_spot:
            # A one-time request: EC2 makes no second instance. This one can be ended, but not stopped.
            spot = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
            market = {"InstanceMarketOptions": spot, "InstanceInitiatedShutdownBehavior": "terminate"}
        answer = ask(
            "EC2",
            self._ec2.run_instances,
            MinCount=1,
            MaxCount=1,
            LaunchTemplate={
                "LaunchTemplateName": StackNames(self._stack).launch_template,
                "Version": self._template,
            },
            SubnetId=place.subnet,
            InstanceType=place.instance_type,  # type: ignore[arg-type]  # the stubs lack newer types
            ClientToken=f"{self._stack}{part}-{generation}",
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
                }
            ],
            **market,
        )
        (instance,) = _instances([answer])
        return instance

    def start(self, instance: Instance) -> None:
        """Start a stopped instance."""
        ask("EC2", self._ec2.start_instances, InstanceIds=[instance.id])

    def stop(self, instance: Instance) -> None:
        """Stop an instance: it keeps its disk. A Spot Instance is ended, since it cannot be stopped."""
        if instance.is_spot:
            self.terminate(instance)
        else:
            _ask(self._ec2.stop_instances, InstanceIds=[instance.id])

    def terminate(self, instance: Instance) -> None:
        """End an instance for good."""
        _ask(self._ec2.terminate_instances, InstanceIds=[instance.id])

    def is_impaired(self, instance: Instance) -> bool:
        """Return whether EC2 reports the instance or its machine as impaired."""
        found = _ask(self._ec2.describe_instance_status, InstanceIds=[instance.id])
        return any(
            "impaired" in (status["InstanceStatus"]["Status"], status["SystemStatus"]["Status"])
            for status in found["InstanceStatuses"]
        )

    def is_outdated(self, instance: Instance) -> bool:
        """Return whether the instance was launched from an older version of the launch template."""
        return self._template not in (_LATEST, instance.template)


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
            tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}
            yield Instance(
                one["InstanceId"],
                one["State"]["Name"],
                one.get("PrivateIpAddress", ""),
                one["LaunchTime"].timestamp(),
                one.get("InstanceType", ""),
                one.get("StateReason", {}).get("Code", ""),
                int(tags.get(_SLOT, "1")),
                tags.get(_TEMPLATE, ""),
                one.get("InstanceLifecycle") == "spot",
            )
