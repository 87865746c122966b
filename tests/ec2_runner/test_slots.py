"""Several hosts of one stack, and Spot Instances, over simulated EC2 on the virtual clock."""

import random
from collections import Counter
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest

from ec2_runner.reach.fleet import Placement
from ec2_runner.reach.lease import Lease
from ec2_runner.reach.reaper import Reaper
from ec2_runner.reach.slot import Slot
from pipeline.errors import HostError, HostNotReady
from tests.ec2_runner.test_reaper import IDLE
from tests.ec2_runner.test_slot import Simulated, World, wait_for, world
from tests.support.fakes import MemoryStore

__all__ = ["world"]
SLOTS = 3
NO_SPOT = (
    *("InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow"),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
)
SPOT_FIRST = [Placement("subnet-a", "t3.medium", is_spot=spot) for spot in (True, False)]


def slot_of(world: World, ec2: Any, number: int = 1, places: list[Placement] | None = None) -> Slot:
    return Slot(world.fleet(ec2), world.lease_of(number), places or world.places, world.clock)


def alive(ec2: Simulated) -> list[dict[str, Any]]:
    gone = ("shutting-down", "terminated")
    return [
        one
        for one in ec2.describe_instances(InstanceIds=list(ec2.found))["Reservations"][0]["Instances"]
        if one["State"]["Name"] not in gone
    ]


def slot_number(one: dict[str, Any]) -> str:
    return next(str(tag["Value"]) for tag in one["Tags"] if tag["Key"] == "cxr:slot")


def test_each_slot_has_a_host_of_its_own(world: World) -> None:
    ec2 = Simulated(world)
    slots = [slot_of(world, ec2, number) for number in (1, 2, 3)]
    for slot in slots:
        wait_for(slot, world.clock, 1)
    assert len({slot.host().id for slot in slots}) == 3
    assert [one["ClientToken"].rpartition("-")[0] for one in ec2.launches] == ["s", "s.2", "s.3"]


def test_a_slot_takes_no_host_from_another(world: World) -> None:
    ec2 = Simulated(world)
    first, second = slot_of(world, ec2, 1), slot_of(world, ec2, 2)
    wait_for(first, world.clock, 1)
    world.dynamodb.delete_item(TableName="s-lease", Key={"id": {"S": "host"}})
    wait_for(second, world.clock, 1)
    assert len(ec2.launches) == 2
    assert first.host().id != second.host().id


def test_a_spot_instance_is_asked_for_first_and_on_demand_where_there_is_none(world: World) -> None:
    ec2 = Simulated(world)
    for ec2.no_spot in ("", *NO_SPOT):
        slot = slot_of(world, ec2, places=SPOT_FIRST)
        wait_for(slot, world.clock, 1)
        slot.reached(slot.host())  # and so Spot is asked for again the next time
        ec2.set(slot.host().id, "terminated", "Client.UserInitiatedShutdown")
    spot = ["InstanceMarketOptions" in launch for launch in ec2.launches]
    assert spot == [True, False, False, False, False]
    (launch, *_) = ec2.launches
    assert launch["InstanceMarketOptions"]["SpotOptions"] == {"SpotInstanceType": "one-time"}
    assert launch["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_an_interrupted_spot_instance_has_a_successor_at_once_and_rings_nobody(world: World) -> None:
    ec2 = Simulated(world)
    slot = slot_of(world, ec2, places=SPOT_FIRST)
    wait_for(slot, world.clock, 1)
    for _ in range(3):
        slot.reached(slot.host())
        ec2.set(slot.host().id, "terminated", "Server.SpotInstanceTermination")
        answers = wait_for(slot, world.clock, 1)
        assert not any(answer.is_fault for answer in answers)
    assert slot.host().is_spot
    assert len(ec2.launches) == 4


def test_an_idle_spot_instance_is_ended_by_the_reaper(world: World) -> None:
    ec2 = Simulated(world)
    slot = slot_of(world, ec2, places=SPOT_FIRST)
    wait_for(slot, world.clock, 1)
    host = slot.host()
    reaper = Reaper(world.fleet(ec2), [slot.lease], MemoryStore(), "AROA", IDLE, world.clock)
    world.clock.now += 3600
    assert reaper.reap() == {}
    world.clock.now += 300
    assert reaper.reap() == {host.id: "terminated"}


def test_a_host_of_a_slot_that_is_no_more_is_ended(world: World) -> None:
    ec2 = Simulated(world)
    slots = [slot_of(world, ec2, number) for number in (1, 2)]
    for slot in slots:
        wait_for(slot, world.clock, 1)
    world.clock.now += 901
    reaper = Reaper(world.fleet(ec2), [slots[0].lease], MemoryStore(), "AROA", IDLE, world.clock)
    second = slots[1].host().id
    assert reaper.reap() == {second: "terminated"}


@pytest.mark.parametrize("before", ["7", None])
def test_a_stopped_host_of_an_older_template_is_replaced_and_one_that_runs_is_not(
    world: World, before: str | None
) -> None:
    """Else it would keep its image, patches and settings for ever. None is a host of an older release."""
    ec2 = Simulated(world)
    wait_for(world.slot(ec2, before or "6"), world.clock, 1)
    old = world.slot(ec2, before or "6").host().id
    if before is None:
        ec2.found[old]["Tags"] = []
    slot = world.slot(ec2, "8")
    assert slot.host().id == old
    ec2.power_off(old)
    answers = wait_for(slot, world.clock, 2)
    assert not any(answer.is_fault for answer in answers)
    assert "older version" in str(answers[0])
    assert ec2.found[old]["State"]["Name"] == "terminated"
    assert ec2.launches[-1]["LaunchTemplate"]["Version"] == "8"
    assert ec2.starts == 0
    ec2.power_off(slot.host().id)
    wait_for(slot, world.clock, 1)
    assert (ec2.starts, len(ec2.launches)) == (1, 2)  # one of this version is started again


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("places", [None, SPOT_FIRST])
def test_whatever_happens_no_slot_has_two_and_none_is_left_behind(
    world: World, seed: int, places: list[Placement] | None
) -> None:
    """Ask, interrupt, power off, sweep, and let handlers die between launch and lease, in any order."""
    chance = random.Random(seed)
    ec2 = Simulated(world)
    slots = [slot_of(world, ec2, number, places) for number in range(1, SLOTS + 1)]
    leases = [slot.lease for slot in slots]
    reaper = Reaper(world.fleet(ec2), leases, MemoryStore(), "AROA", IDLE, world.clock)

    def ask() -> None:
        slot = chance.choice(slots)
        with suppress(HostNotReady):
            host = slot.host()
            slot.reached(host) if chance.random() < 0.7 else slot.unreachable(host)

    def die() -> None:
        """Launch, perhaps, and die before the lease knows of it."""
        with mock.patch.object(Lease, "hold", side_effect=HostNotReady("it died")):
            ask()

    def fail() -> None:
        """Have EC2 end or stop a host, or have it power itself off."""
        if found := alive(ec2):
            victim = chance.choice(found)["InstanceId"]
            how = chance.choice(["interrupted", "idle", "fault"])
            if how == "idle":
                ec2.power_off(victim)
            else:
                code = "Server.SpotInstanceTermination" if how == "interrupted" else "Server.InternalError"
                ec2.set(victim, "terminated", code)

    def sweep() -> None:
        with suppress(HostError):
            reaper.reap()

    deeds = [ask] * 10 + [die, fail, fail, sweep]
    for _ in range(60):
        chance.choice(deeds)()
        ec2.no_spot = chance.choice(["", "", "InsufficientInstanceCapacity"])
        world.clock.now += chance.choice([1, 20, 20, 70, 400])
        held = Counter(map(slot_number, alive(ec2)))
        assert all(count == 1 for count in held.values()), held
    for _ in range(20):
        world.clock.now += 300
        sweep()
    owned = {lease.read().instance_id for lease in leases}
    for one in alive(ec2):
        assert one["State"]["Name"] == "stopped"
        assert one["InstanceId"] in owned
        assert "InstanceLifecycle" not in one


def test_ensure_that_the_simulation_can_see_two(world: World) -> None:
    """Launch two hosts for one slot: the check of the test above must be able to fail."""
    ec2 = Simulated(world)
    for generation in (1, 2):
        world.fleet(ec2).launch(world.places[0], 1, generation)
    assert max(Counter(map(slot_number, alive(ec2))).values()) == 2
