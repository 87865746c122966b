"""The reaper: idle, silent and orphaned hosts end; a busy one never does."""

import json
from datetime import UTC, datetime

import pytest

from ec2_runner.reach.identity import place_of_host
from ec2_runner.reach.reaper import Reaper
from tests.ec2_runner.test_fleet import World, world
from tests.support.fakes import MemoryStore

__all__ = ["world"]
IDLE = 20 * 60.0


class Watched:
    """Hold a running host and its published state."""

    def __init__(self, world: World) -> None:
        self.world, self.store = world, MemoryStore()
        self.id = world.launched()
        self.started = world.fleet().host().launched_at
        self.reaper = Reaper(world.fleet(), self.store, "AROA", IDLE, world.clock)

    def at(
        self, minutes: float, said: float | None = None, job: float | None = None, active: int = 0
    ) -> None:
        """Run the reaper some minutes after the start; last report and last job are given in minutes, too."""
        self.world.clock.now = self.started + minutes * 60
        if said is not None:
            words = {"at": said, "started_at": 0.0, "last_job_at": job}
            times = {name: self._iso(value) for name, value in words.items() if value is not None}
            key = place_of_host(f"AROA:{self.id}") + "status.json"
            self.store.objects[key] = json.dumps({**times, "active": active}).encode()
        self.deeds = self.reaper.reap()

    def _iso(self, minutes: float) -> str:
        return datetime.fromtimestamp(self.started + minutes * 60, UTC).isoformat()


@pytest.fixture
def watched(world: World) -> Watched:
    return Watched(world)


def test_an_idle_host_is_stopped_at_the_second_look(watched: Watched) -> None:
    watched.at(60, said=60, job=30)
    assert watched.deeds == {}
    watched.at(62, said=62, job=30)
    assert watched.deeds == {}  # too soon after the first
    watched.at(65, said=65, job=30)
    assert watched.deeds == {watched.id: "stopped"}
    assert watched.world.states() == ["stopped"]


def test_a_job_between_the_looks_saves_it(watched: Watched) -> None:
    watched.at(60, said=60, job=30)
    watched.at(65, said=65, job=64)
    assert watched.deeds == {}
    watched.at(100, said=100, job=64)  # the first look counts no more
    assert watched.deeds == {}


def test_a_busy_host_is_never_stopped(watched: Watched) -> None:
    for minutes in range(60, 200, 5):
        watched.at(minutes, said=minutes, job=20, active=3)
        assert watched.deeds == {}


def test_a_host_that_boots_is_left_alone(watched: Watched) -> None:
    watched.at(5)
    watched.at(14)
    assert watched.deeds == {}


@pytest.mark.parametrize("said", [None, 40.0])
def test_a_silent_host_is_stopped(watched: Watched, said: float | None) -> None:
    watched.at(60, said=said, job=said, active=1)
    watched.at(65)
    assert watched.deeds == {watched.id: "stopped"}


def test_words_that_are_none_count_as_silence(watched: Watched) -> None:
    watched.store.objects[place_of_host(f"AROA:{watched.id}") + "status.json"] = b"{}"
    watched.at(60)
    watched.at(65)
    assert watched.deeds == {watched.id: "stopped"}


def test_an_instance_that_nobody_owns_is_ended(watched: Watched) -> None:
    watched.world.lease.retire(watched.world.lease.read().generation)
    watched.at(5)
    assert watched.deeds == {}
    watched.at(16)
    assert watched.deeds == {watched.id: "terminated"}
    assert watched.world.states() == ["terminated"]
