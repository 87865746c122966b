"""The one EC2 instance, over moto's EC2 and DynamoDB, and over botocore's Stubber where moto is wrong."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from ec2_runner.reach.fleet import Fleet, Placement
from ec2_runner.reach.lease import Lease
from ec2_runner.reach.slot import Slot
from pipeline.errors import HostNotReady
from tests.support.tables import make_table

START = 1_800_000_000.0
PLACES = 2


class Clock:
    now = START

    def __call__(self) -> float:
        return self.now


class Atomic:
    """Make the calls of a DynamoDB client atomic, as DynamoDB's are; moto's are not between threads."""

    def __init__(self, dynamodb: Any) -> None:
        self._dynamodb, self._lock = dynamodb, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        def call(**request: Any) -> Any:
            with self._lock:
                return getattr(self._dynamodb, name)(**request)

        return call


class World:
    """Hold a stack's EC2 side, as the template makes it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ec2: Any = boto3.client("ec2", "us-east-1")
        self.dynamodb: Any = boto3.client("dynamodb", "us-east-1")
        make_table(self.dynamodb, "s-lease", "id")
        machine = {"ImageId": "ami-12c6146b", "InstanceType": "t3.micro"}  # one that moto knows
        self.ec2.create_launch_template(LaunchTemplateName="s-host", LaunchTemplateData=machine)
        subnets = [subnet["SubnetId"] for subnet in self.ec2.describe_subnets()["Subnets"]][:PLACES]
        self.places = [Placement(subnet, "t3.micro") for subnet in subnets]
        self.lease = self.lease_of(1)

    def lease_of(self, slot: int) -> Lease:
        return Lease("s-lease", Atomic(self.dynamodb), slot)

    def fleet(self, ec2: Any = None, template: str = "$Latest") -> Fleet:
        return Fleet(ec2 or self.ec2, "s", template)

    def slot(self, ec2: Any = None, template: str = "$Latest") -> Slot:
        return Slot(self.fleet(ec2, template), self.lease, self.places, self.clock)

    def states(self) -> list[str]:
        reservations = self.ec2.describe_instances()["Reservations"]
        return [instance["State"]["Name"] for found in reservations for instance in found["Instances"]]

    def launched(self) -> str:
        """Launch a host and return its id."""
        with pytest.raises(HostNotReady):
            self.slot().host()
        instance_id = self.lease.read().instance_id
        assert instance_id is not None
        return instance_id

    def force(self, instance_id: str, state: str) -> None:
        """Put an instance of moto into a state that it would only pass through."""
        from moto.ec2.models import ec2_backends

        backend = ec2_backends["123456789012"]["us-east-1"]
        backend.get_instance(instance_id)._state.name = state  # type: ignore[no-untyped-call]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield World()


def error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, "RunInstances")


class Faulty:
    """Refuse some calls to EC2."""

    def __init__(self, ec2: Any, **faults: list[Exception | None]) -> None:
        self._ec2, self._faults = ec2, faults
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(**request: Any) -> Any:
            self.asked.append((name, request))
            faults = self._faults.get(name)
            fault = faults.pop(0) if faults else None
            if fault:
                raise fault
            return getattr(self._ec2, name)(**request)

        return call


def test_there_is_none_so_one_is_launched_and_then_used(world: World) -> None:
    instance_id = world.launched()
    host = world.slot().host()  # moto's instances run at once
    assert (host.id, host.state) == (instance_id, "running")
    assert host.address.startswith("172.")
    tags = world.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [instance_id]}])["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags if not tag["Key"].startswith("aws:")} == {
        "cxr:stack": "s",
        "cxr:generation": str(int(START)),
        "cxr:slot": "1",
        "cxr:template": "$Latest",
    }
    assert world.states() == ["running"]


@pytest.mark.parametrize("state", ["pending", "stopping"])
def test_a_state_that_passes_is_waited_for(world: World, state: str) -> None:
    world.force(world.launched(), state)
    with pytest.raises(HostNotReady, match=state) as wait:
        world.slot().host()
    assert not wait.value.is_fault
    assert world.states() == [state]


def test_a_stopped_host_is_started_again(world: World) -> None:
    instance_id = world.launched()
    world.ec2.stop_instances(InstanceIds=[instance_id])
    with pytest.raises(HostNotReady, match="stopped"):
        world.slot().host()
    assert world.slot().host().id == instance_id


@pytest.mark.parametrize("state", ["shutting-down", "terminated"])
def test_a_host_that_is_gone_has_a_successor(world: World, state: str) -> None:
    instance_id = world.launched()
    world.force(instance_id, state)
    for _ in range(2):
        with pytest.raises(HostNotReady):
            world.slot().host()
    holding = world.lease.read()
    assert holding.instance_id not in (None, instance_id)
    assert holding.generation == START + 1
    assert world.slot().host().id == holding.instance_id


def test_an_instance_that_ec2_does_not_show_yet_is_no_reason_for_another(world: World) -> None:
    world.launched()
    unknown = [error("InvalidInstanceID.NotFound")] * 2
    faulty = Faulty(world.ec2, describe_instances=list(unknown))
    world.clock.now += 60
    with pytest.raises(HostNotReady, match="pending"):
        world.slot(faulty).host()
    world.clock.now += 120
    with pytest.raises(HostNotReady):  # now it is taken for gone
        world.slot(faulty).host()
    assert world.lease.read().instance_id is None


def test_two_handlers_at_once_launch_one(world: World) -> None:
    ready = threading.Barrier(8)

    def ask() -> None:
        ready.wait()
        with suppress(HostNotReady):  # a late one finds it running
            world.slot().host()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert world.states() == ["running"]


def test_the_launch_of_a_generation_is_the_same_whoever_makes_it(world: World) -> None:
    """moto ignores the token; EC2 requires that the whole request is the same."""
    asked = []
    for _ in range(2):
        faulty = Faulty(world.ec2, run_instances=[error("RequestTimeout")])
        with pytest.raises(HostNotReady, match="RequestTimeout"):
            world.slot(faulty).host()
        asked += [request for name, request in faulty.asked if name == "run_instances"]
        with pytest.raises(HostNotReady, match="another handler"):
            world.slot().host()
        world.clock.now += 61  # the claim of a handler that died ends
    assert len(asked) == 2
    assert asked[0] == asked[1]
    assert asked[0]["ClientToken"] == f"s-{int(START)}"
    assert asked[0]["SubnetId"] == world.places[0].subnet


def test_a_launch_whose_handler_died_is_adopted(world: World) -> None:
    world.launched()
    instance_id = world.lease.read().instance_id
    world.dynamodb.delete_item(TableName="s-lease", Key={"id": {"S": "host"}})
    world.clock.now += 500
    assert world.slot().host().id == instance_id
    assert world.states() == ["running"]


def test_no_room_here_so_the_next_subnet(world: World) -> None:
    faulty = Faulty(world.ec2, run_instances=[error("InsufficientInstanceCapacity"), None])
    with pytest.raises(HostNotReady):
        world.slot(faulty).host()
    first, second = (request for name, request in faulty.asked if name == "run_instances")
    assert first["SubnetId"] != second["SubnetId"]
    assert first["ClientToken"] != second["ClientToken"]
    assert world.states() == ["running"]


def test_no_room_anywhere_is_somebodys_business(world: World) -> None:
    faulty = Faulty(world.ec2, run_instances=[error("VcpuLimitExceeded")] * PLACES)
    with pytest.raises(HostNotReady, match="no capacity") as refusal:
        world.slot(faulty).host()
    assert refusal.value.is_fault
    with pytest.raises(HostNotReady):
        world.slot().host()  # and the next handler tries again
    assert world.states() == ["running"]


def test_no_room_to_start_again_means_another_one(world: World) -> None:
    instance_id = world.launched()
    world.ec2.stop_instances(InstanceIds=[instance_id])
    faulty = Faulty(world.ec2, start_instances=[error("InsufficientInstanceCapacity")])
    with pytest.raises(HostNotReady, match="another one"):
        world.slot(faulty).host()
    assert world.states() == ["terminated"]
    assert world.launched() != instance_id


@pytest.mark.parametrize("reason", ["Server.InsufficientInstanceCapacity", "Client.InternalError", ""])
def test_a_start_that_ec2_takes_back_means_another_host_elsewhere(world: World, reason: str) -> None:
    """StartInstances is accepted; then EC2 puts the instance back to stopped."""
    first = world.launched()

    class Reverting(Faulty):
        def __getattr__(self, name: str) -> Any:
            call = super().__getattr__(name)

            def told(**request: Any) -> Any:
                answer = call(**request)
                for found in answer.get("Reservations", []):
                    for one in found["Instances"]:
                        if one["InstanceId"] == first and one["State"]["Name"] != "terminated":
                            one["State"] = {"Name": "stopped"}
                            one["StateReason"] = {"Code": reason}
                            one["LaunchTime"] = datetime.fromtimestamp(world.clock.now - 30, UTC)
                return answer

            return told

    slot = world.slot(Reverting(world.ec2))
    with pytest.raises(HostNotReady, match="reverted a start") as told:
        slot.host()
    assert (told.value.is_fault, told.value.retry_after) == (True, 120)
    with pytest.raises(HostNotReady, match="pending"):
        slot.host()
    holding = world.lease.read()
    assert holding.instance_id not in (None, first)
    host = world.ec2.describe_instances(InstanceIds=[holding.instance_id])["Reservations"][0]["Instances"][0]
    assert host["SubnetId"] == world.places[1].subnet


def test_a_host_that_another_handler_just_started_is_waited_for(world: World) -> None:
    instance_id = world.launched()
    world.ec2.stop_instances(InstanceIds=[instance_id])
    faulty = Faulty(world.ec2, start_instances=[error("IncorrectInstanceState")])
    with pytest.raises(HostNotReady) as wait:
        world.slot(faulty).host()
    assert not wait.value.is_fault


def test_a_host_that_stays_unreachable_is_replaced(world: World) -> None:
    world.launched()
    slot = world.slot()
    host = slot.host()
    world.clock.now = host.launched_at + 300

    def try_for(minutes: int) -> None:
        for _ in range(minutes):
            world.clock.now += 60
            slot.unreachable(host)

    try_for(10)
    slot.reached(host)
    try_for(10)  # once reached, the time counts anew
    world.clock.now += 3600
    try_for(10)  # and so it does when nobody failed for an hour: others may have reached it
    assert world.states() == ["running"]
    with pytest.raises(HostNotReady, match="lost") as replaced:
        try_for(2)
    assert replaced.value.is_fault
    assert world.states() == ["terminated"]
    assert world.launched() != host.id


def test_an_impaired_host_is_replaced_sooner(world: World) -> None:
    world.launched()
    impaired = {
        "InstanceStatuses": [
            {"InstanceStatus": {"Status": "impaired"}, "SystemStatus": {"Status": "ok"}},
        ]
    }

    class Impaired(Faulty):
        def describe_instance_status(self, **request: Any) -> Any:
            return impaired

    slot = world.slot(Impaired(world.ec2))
    host = slot.host()
    world.clock.now = host.launched_at + 10
    slot.unreachable(host)
    world.clock.now += 130
    with pytest.raises(HostNotReady, match="lost"):
        slot.unreachable(host)


def test_what_ec2_refuses_is_said(world: World) -> None:
    with pytest.raises(HostNotReady, match="UnauthorizedOperation") as refusal:
        world.slot(Faulty(world.ec2, run_instances=[error("UnauthorizedOperation")])).host()
    assert refusal.value.is_fault
    with pytest.raises(HostNotReady, match="RequestLimitExceeded"):
        world.slot(Faulty(world.ec2, describe_instances=[error("RequestLimitExceeded")])).host()


class Simulated:
    """Simulate EC2 on the virtual clock. Launches honour their token; `fate` ends each launch and start."""

    def __init__(self, world: World, fate: tuple[str, str] = ("running", "")) -> None:
        self.clock, self.fate, self.after = world.clock, fate, 10.0
        self.found: dict[str, dict[str, Any]] = {}
        self.launches: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.starts = 0
        self.no_room: set[str] = set()  # in these subnets
        self.no_spot = ""  # the error of each Spot launch
        self.protected = False

    def run_instances(self, **request: Any) -> Any:
        known = [one for one in self.launches if one["ClientToken"] == request["ClientToken"]]
        assert all(one == request for one in known), "the same token with another request"
        if request["SubnetId"] in self.no_room:
            raise error("InsufficientInstanceCapacity")
        if self.no_spot and "InstanceMarketOptions" in request:
            raise error(self.no_spot)
        if not known:
            self.launches.append(request)
            self.times.append(self.clock.now)
            number = f"i-{len(self.launches):017x}"
            spot = {"InstanceLifecycle": "spot"} if "InstanceMarketOptions" in request else {}
            tags = request["TagSpecifications"][0]["Tags"]
            self.found[number] = {"InstanceId": number, "State": {"Name": "pending"}, "Tags": tags, **spot}
            self._begin(number)
        return {"Instances": [list(self.found.values())[self.launches.index(request)]]}

    def start_instances(self, InstanceIds: list[str]) -> None:
        self.starts += 1
        assert "InstanceLifecycle" not in self.found[InstanceIds[0]], "a Spot Instance cannot be started"
        self._begin(InstanceIds[0])

    def stop_instances(self, InstanceIds: list[str]) -> None:
        assert "InstanceLifecycle" not in self.found[InstanceIds[0]], "a Spot Instance cannot be stopped"
        self.set(InstanceIds[0], "stopped", "Client.UserInitiatedShutdown")

    def terminate_instances(self, InstanceIds: list[str]) -> None:
        if self.protected:
            raise error("OperationNotPermitted")
        self.set(InstanceIds[0], "terminated", "Client.UserInitiatedShutdown")

    def describe_instances(self, **request: Any) -> Any:
        found = [self._now(one) for one in self.found.values()]
        if "InstanceIds" in request:
            found = [one for one in found if one["InstanceId"] in request["InstanceIds"]]
        else:
            states = request["Filters"][1]["Values"]
            found = [one for one in found if one["State"]["Name"] in states]
        return {"Reservations": [{"Instances": found}]}

    def describe_instance_status(self, **request: Any) -> Any:
        return {"InstanceStatuses": []}

    def power_off(self, instance_id: str) -> None:
        """Power an idle host off from inside, which ends a Spot Instance."""
        state = "terminated" if "InstanceLifecycle" in self.found[instance_id] else "stopped"
        self.set(instance_id, state, "Client.InstanceInitiatedShutdown")

    def set(self, instance_id: str, state: str, reason: str = "") -> None:
        self.found[instance_id].update(State={"Name": state}, StateReason={"Code": reason}, until=None)

    def _begin(self, instance_id: str) -> None:
        one = self.found[instance_id]
        one.update(State={"Name": "pending"}, LaunchTime=datetime.fromtimestamp(self.clock.now, UTC))
        one["until"] = self.clock.now + self.after

    def _now(self, one: dict[str, Any]) -> dict[str, Any]:
        if one.get("until") and self.clock.now >= one["until"]:
            self.set(one["InstanceId"], *self.fate)
        return one


def wait_for(slot: Slot, clock: Clock, minutes: float) -> list[HostNotReady]:
    """Ask for the host as the queue does, every 20 s; return the answers while there was none."""
    answers, end = [], clock.now + minutes * 60
    while clock.now < end:
        try:
            slot.host()
        except HostNotReady as answer:
            answers.append(answer)
        clock.now += 20
    return answers


@pytest.mark.parametrize("reason", ["Client.VolumeLimitExceeded", "Client.InternalError"])
def test_a_host_that_ec2_ends_at_its_launch_is_launched_ever_less_often(world: World, reason: str) -> None:
    ec2 = Simulated(world, ("terminated", reason))
    answers = wait_for(world.slot(ec2), world.clock, 30)
    assert 3 <= len(ec2.launches) <= 6
    pauses = [later - earlier for earlier, later in pairwise(ec2.times)]
    assert pauses == sorted(pauses)
    told = [answer for answer in answers if reason in str(answer)]
    assert all(answer.is_fault for answer in told)
    assert len(told) > len(answers) / 2  # also while the next launch is put off
    assert len({one["SubnetId"] for one in ec2.launches}) == 1  # no lack of room


def test_a_host_that_was_reached_ends_the_back_off(world: World) -> None:
    ec2 = Simulated(world, ("terminated", "Client.VolumeLimitExceeded"))
    slot = world.slot(ec2)
    wait_for(slot, world.clock, 30)
    ec2.fate = ("running", "")
    wait_for(slot, world.clock, 16)
    slot.reached(slot.host())
    holding = world.lease.read()
    assert (holding.losses, holding.launch_after, holding.ended_by) == (0, 0, None)
    ec2.set(slot.host().id, "terminated", "Client.UserInitiatedShutdown")  # by a person
    launches = len(ec2.launches)
    (first, *others) = wait_for(slot, world.clock, 2)
    assert not first.is_fault
    assert not any(other.is_fault for other in others)
    assert len(ec2.launches) == launches + 1


def test_hosts_that_somebody_ends_again_and_again_are_a_fault_too(world: World) -> None:
    ec2 = Simulated(world, ("terminated", "Client.UserInitiatedShutdown"))
    answers = wait_for(world.slot(ec2), world.clock, 30)
    assert len(ec2.launches) <= 7
    assert answers[-1].is_fault


def test_a_launch_that_ends_for_lack_of_room_is_made_elsewhere_at_once(world: World) -> None:
    ec2 = Simulated(world, ("terminated", "Server.InsufficientInstanceCapacity"))
    wait_for(world.slot(ec2), world.clock, 2)
    assert [one["SubnetId"] for one in ec2.launches[:PLACES]] == [place.subnet for place in world.places]
    wait_for(world.slot(ec2), world.clock, 60)
    assert len(ec2.launches) < 20


@pytest.mark.parametrize("seconds", range(5))
def test_the_type_asked_for_first_is_launched_first(world: World, seconds: int) -> None:
    """The generation begins at the clock, which must not choose the place."""
    world.clock.now += seconds
    ec2 = Simulated(world)
    wait_for(world.slot(ec2), world.clock, 1)
    assert [one["SubnetId"] for one in ec2.launches] == [world.places[0].subnet]


def test_lack_of_room_is_forgotten_once_a_host_was_reached(world: World) -> None:
    ec2 = Simulated(world)
    ec2.no_room = {world.places[0].subnet}
    slot = world.slot(ec2)
    wait_for(slot, world.clock, 1)
    ec2.no_room = set()
    ec2.set(slot.host().id, "terminated", "Client.UserInitiatedShutdown")
    wait_for(slot, world.clock, 2)  # never reached: there is no news of the first place
    slot.reached(slot.host())
    ec2.set(slot.host().id, "terminated", "Client.UserInitiatedShutdown")
    wait_for(slot, world.clock, 2)
    first, second = (place.subnet for place in world.places)
    assert [one["SubnetId"] for one in ec2.launches] == [second, second, first]


def test_a_token_that_was_used_otherwise_is_no_lack_of_room(world: World) -> None:
    faulty = Faulty(world.ec2, run_instances=[error("IdempotentParameterMismatch"), None])
    for _ in range(2):
        with pytest.raises(HostNotReady) as wait:
            world.slot(faulty).host()
        assert not wait.value.is_fault
    first, second = (request for name, request in faulty.asked if name == "run_instances")
    assert first["ClientToken"] != second["ClientToken"]
    assert first["SubnetId"] == second["SubnetId"]


@pytest.mark.parametrize("reason", ["Client.UserInitiatedShutdown", "Server.InsufficientInstanceCapacity"])
def test_starts_that_never_succeed_mean_another_host_elsewhere(world: World, reason: str) -> None:
    """The reason and start time that EC2 shows may be those of the stop before."""
    ec2 = Simulated(world)
    slot = world.slot(ec2)
    wait_for(slot, world.clock, 1)
    ec2.stop_instances([slot.host().id])
    ec2.fate = ("stopped", reason)
    while len(ec2.launches) == 1 and world.clock.now < START + 1800:
        wait_for(slot, world.clock, 1 / 3)
    ec2.fate = ("running", "")
    wait_for(slot, world.clock, 3)
    assert ec2.starts <= 3
    assert [one["SubnetId"] for one in ec2.launches] == [place.subnet for place in world.places]
    assert slot.host().id == list(ec2.found)[-1]
    assert world.clock.now < START + 900


def test_many_handlers_that_start_a_host_at_once_count_as_one_try(world: World) -> None:
    ec2 = Simulated(world)
    wait_for(world.slot(ec2), world.clock, 1)
    host = world.slot(ec2).host()
    ec2.stop_instances([host.id])
    ec2.after = 50
    for _ in range(8):
        with pytest.raises(HostNotReady):
            world.slot(ec2).host()
        ec2.set(host.id, "stopped", "Client.UserInitiatedShutdown")  # EC2 shows the old state for a moment
    ec2.start_instances([host.id])
    wait_for(world.slot(ec2), world.clock, 2)
    assert world.slot(ec2).host().id == host.id


@pytest.mark.parametrize("state", ["pending", "stopping"])
@pytest.mark.parametrize("protected", [False, True])
def test_a_state_that_does_not_pass_means_another_host(world: World, state: str, protected: bool) -> None:
    ec2 = Simulated(world)
    slot = world.slot(ec2)
    wait_for(slot, world.clock, 1)
    stuck = slot.host().id
    slot.reached(slot.host())
    ec2.protected = protected
    ec2.set(stuck, state)
    answers = wait_for(slot, world.clock, 9)
    assert not any(answer.is_fault for answer in answers)
    answers = wait_for(slot, world.clock, 5)
    assert any(answer.is_fault and state in str(answer) for answer in answers)
    assert len(ec2.launches) == 2
    assert slot.host().id != stuck


def test_a_passing_state_of_an_earlier_stop_does_not_count(world: World) -> None:
    ec2 = Simulated(world)
    slot = world.slot(ec2)
    wait_for(slot, world.clock, 1)
    for _ in range(3):
        ec2.set(slot.host().id, "stopping")
        wait_for(slot, world.clock, 1)
        ec2.set(list(ec2.found)[-1], "stopped", "Client.UserInitiatedShutdown")
        world.clock.now += 3600
        wait_for(slot, world.clock, 1)
    assert len(ec2.launches) == 1


def test_a_start_without_room_is_told_as_that(world: World) -> None:
    instance_id = world.launched()
    world.ec2.stop_instances(InstanceIds=[instance_id])
    faulty = Faulty(world.ec2, start_instances=[error("InsufficientInstanceCapacity")])
    with pytest.raises(HostNotReady, match="no capacity to start the host") as told:
        world.slot(faulty).host()
    assert "lost" not in str(told.value)


def test_a_lease_of_the_release_before_is_read(world: World) -> None:
    instance_id = world.launched()
    item = {"id": {"S": "host"}, "generation": {"N": "7"}, "instance_id": {"S": instance_id}}
    world.dynamodb.put_item(TableName="s-lease", Item={**item, "launched_at": {"N": repr(START)}})
    holding = world.lease.read()
    assert (holding.generation, holding.attempt, holding.losses, holding.starts) == (7, 0, 0, 0)
    slot = world.slot()
    slot.reached(slot.host())
    world.force(instance_id, "terminated")
    with pytest.raises(HostNotReady, match="terminated"):
        slot.host()
    assert world.launched() != instance_id
    assert world.lease.read().generation == 8


def test_the_launch_of_a_handler_of_the_release_before_is_adopted(world: World) -> None:
    """It chose the place by the generation, so the same token names another request."""
    ec2 = Simulated(world)
    other = world.fleet(ec2).launch(world.places[1], 1, int(START)).id

    class Hiding(Faulty):
        def describe_instances(self, **request: Any) -> Any:
            return {"Reservations": []}  # not shown yet

    refused = [error("IdempotentParameterMismatch")]
    with pytest.raises(HostNotReady, match="made already"):
        world.slot(Hiding(ec2, run_instances=[*refused])).host()
    wait_for(world.slot(ec2), world.clock, 1)
    assert world.slot(ec2).host().id == other
    assert len(ec2.launches) == 1


def test_slow_refusals_everywhere_are_somebodys_business_too(world: World) -> None:
    """A call ends its tries after a while, and the next goes on; once all were tried, it is a fault."""
    ec2 = Simulated(world)
    ec2.no_room = {place.subnet for place in world.places}
    launch = ec2.run_instances

    def slowly(**request: Any) -> Any:
        world.clock.now += 16
        return launch(**request)

    ec2.run_instances = slowly  # type: ignore[method-assign]
    answers = wait_for(world.slot(ec2), world.clock, 4)
    assert not answers[0].is_fault
    assert all(answer.is_fault for answer in answers[PLACES:])
    assert {answer.retry_after for answer in answers[PLACES:]} == {120}
