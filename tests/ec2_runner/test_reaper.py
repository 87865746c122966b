"""The reaper: idle, silent and orphaned hosts end; a busy one does not while its jobs can last."""

import json
from datetime import UTC, datetime

import pytest

from ec2_runner.reach.identity import place_of_host
from ec2_runner.reach.reaper import Deed, Reaper
from pipeline.errors import HostError, StoreError
from tests.ec2_runner.test_slot import World, world
from tests.support.fakes import MemoryStore

__all__ = ["world"]
IDLE = 20 * 60.0


class Watched:
    """Hold a running host and its published state."""

    def __init__(self, world: World) -> None:
        self.world, self.store = world, MemoryStore()
        self.id = world.launched()
        self.started = world.slot().host().launched_at
        self.reaper = Reaper(world.fleet(), [world.lease], self.store, "AROA", IDLE, world.clock)

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
        watched.at(minutes, said=minutes, job=minutes - 20, active=3)
        assert watched.deeds == {}


def test_a_busy_host_that_falls_silent_is_given_the_time_that_its_jobs_may_take(watched: Watched) -> None:
    watched.at(60, said=60, job=60, active=3)
    for minutes in range(65, 90, 5):
        watched.at(minutes)
        assert watched.deeds == {}
    watched.at(95)
    watched.at(100)
    assert watched.deeds == {watched.id: "stopped"}


def test_a_host_whose_jobs_never_end_is_stopped_at_last(watched: Watched) -> None:
    """Its worker reports that it is busy, but answers no job and takes none."""
    ends = [minutes for minutes in range(60, 200, 5) if _deeds(watched, minutes)]
    assert ends[:1] == [100]


def _deeds(watched: Watched, minutes: int) -> dict[str, Deed]:
    watched.at(minutes, said=minutes, job=60, active=1)
    return watched.deeds


def test_a_report_that_is_far_too_long_counts_as_silence(watched: Watched) -> None:
    watched.store.objects[place_of_host(f"AROA:{watched.id}") + "status.json"] = b" " * 200_000
    watched.at(60)
    watched.at(65)
    assert watched.deeds == {watched.id: "stopped"}


def test_an_instance_that_cannot_be_ended_does_not_keep_the_others_from_it(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """The alarm sees the error that the sweep raises at its end."""
    world = watched.world
    world.lease.retire(world.lease.read().generation)
    world.ec2.modify_instance_attribute(InstanceId=watched.id, DisableApiTermination={"Value": True})
    other = world.fleet().launch(world.places[0], 1, 1).id
    owned = world.fleet().launch(world.places[0], 1, 2).id
    world.lease.hold(world.lease.read().generation, owned, world.clock.now)
    for _ in range(2):
        with pytest.raises(HostError, match=f"1 of .* {watched.id}"):
            watched.at(60)
        watched.started += 300
    assert watched.id in caplog.text
    host = world.fleet().find(owned)
    assert host is not None
    assert host.state == "stopped"
    assert sorted(world.states()) == ["running", "stopped", "terminated"]
    assert other not in caplog.text


def test_a_report_that_cannot_be_read_is_no_reason_to_stop_a_host(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(key: str, limit: int) -> None:
        raise StoreError("S3 did not answer")

    monkeypatch.setattr(watched.store, "get", away)
    for minutes in (60, 65, 70):
        with pytest.raises(HostError, match=watched.id):
            watched.at(minutes)
    assert watched.world.states() == ["running"]


def test_a_host_that_boots_is_left_alone(watched: Watched) -> None:
    watched.at(5)
    watched.at(14)
    assert watched.deeds == {}


@pytest.mark.parametrize("said", [None, 40.0])
def test_a_silent_host_is_stopped(watched: Watched, said: float | None) -> None:
    watched.at(60, said=said, job=said)
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
