"""The connection to an EC2 host: key, signed tunnel and pinned host key, with real SSH behind a stand-in."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import paramiko
import pytest
from botocore.credentials import Credentials

from ec2_runner.reach.fleet import Instance
from ec2_runner.reach.identity import Identity, place_of_host
from ec2_runner.reach.pool import Pool
from ec2_runner.reach.remote import RemoteHost
from ec2_runner.reach.route import Ec2Route
from ec2_runner.reach.ssh import fresh_key
from ec2_runner.reach.tunnel import EndpointRefused, Tunnel, signed_url
from pipeline.aws.clients import Aws
from pipeline.errors import HostNotReady
from pipeline.settings import Settings
from tests.ec2_runner.test_pool import Asked
from tests.ec2_runner.test_remote import RELEASE, Echo, Served, jobs, needs_sshd, results
from tests.support.fakes import MemoryStore
from tests.support.instance_connect import Endpoint, InstanceConnectApi, signature_problem
from tests.support.machines import ACCESS_KEY, REGION, SECRET, USER, Sshd, wait_for

ENDPOINT_ID, INSTANCE = "eice-0123", "i-0123456789abcdef0"
HOST_ID = f"AROA:{INSTANCE}"
CREDENTIALS = Credentials(ACCESS_KEY, SECRET)


class OneHost:
    """Play a slot whose host runs; note what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def host(self) -> Instance:
        return Instance(INSTANCE, "running", "10.0.0.7", 0)

    def unreachable(self, instance: Instance) -> None:
        self.notes.append("unreachable")

    def reached(self, instance: Instance) -> None:
        self.notes.append("reached")


class World:
    """Hold one EC2 host as its handlers see it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.echo = Echo()
        self.served = Served(self.echo)
        self.echo.abort = self.served.break_off
        self.sshd = Sshd(folder / "sshd", self.served.port)
        self.api = InstanceConnectApi(self.sshd)
        self.endpoint = Endpoint(self.sshd.port, ENDPOINT_ID)
        self.slot, self.store = OneHost(), MemoryStore()
        self.publish(self.sshd.host_key)
        monkeypatch.setenv("AWS_ENDPOINT_URL_EC2_INSTANCE_CONNECT", self.api.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    def publish(self, host_key: str) -> None:
        key = place_of_host(HOST_ID) + "ready.json"
        self.store.objects[key] = Identity(host_key=host_key, release=7).model_dump_json().encode()

    def host(self, **changes: Any) -> RemoteHost:
        settings = Settings(
            **{
                "connect_endpoint": ENDPOINT_ID,
                "host_role_id": "AROA",
                "worker_port": self.served.port,
                **changes,
            }
        )
        aws = Aws(REGION)
        route = Ec2Route(self.slot, self.store, settings, aws, USER, self.endpoint.url)  # type: ignore[arg-type]
        return RemoteHost(route, settings.worker_port, RELEASE)

    def stop(self) -> None:
        for part in (self.endpoint, self.api, self.sshd, self.served):
            part.stop()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, monkeypatch)
    yield world
    world.stop()


@needs_sshd
def test_jobs_go_through_the_tunnel_with_a_key_that_is_new_each_time(world: World) -> None:
    names = [str(n) for n in range(32)]
    for _ in range(2):
        host = world.host()
        assert results(host.run(jobs(*names))) == dict.fromkeys(names, "classified")
        assert results(host.run(jobs("again"))) == {"again": "classified"}
        host.close()
    pushed = world.api.pushed
    assert [(push["InstanceId"], push["InstanceOSUser"]) for push in pushed] == [(INSTANCE, USER)] * 2
    assert len({push["SSHPublicKey"] for push in pushed}) == 2
    assert world.slot.notes == ["reached", "reached"]
    assert not world.endpoint.refusals


@needs_sshd
def test_a_tunnel_that_is_cut_is_opened_again(world: World) -> None:
    host = world.host()
    assert results(host.run(jobs("a"))) == {"a": "classified"}
    world.endpoint.cut()
    assert results(host.run(jobs("b"))) == {"b": "classified"}
    world.echo.abort = lambda: world.endpoint.cut() if len(world.echo.batches) < 4 else None
    found = results(host.run(jobs("c", "poison", "d")))
    assert found == {"c": "classified", "poison": "classified", "d": "classified"}
    host.close()


@needs_sshd
def test_two_hosts_share_a_batch_through_a_tunnel_each(world: World) -> None:
    hosts = [world.host(), world.host()]
    pool = Pool(list(hosts), Asked(12_000).demand(2))
    names = [str(n) for n in range(32)]
    for _ in range(2):
        assert results(pool.run(jobs(*names))) == dict.fromkeys(names, "classified")
    assert len(world.endpoint.tunnels) == 2
    hosts[1].abandon()
    assert results(pool.run(jobs(*names))) == dict.fromkeys(names, "classified")
    world.sshd.stop()
    with pytest.raises(HostNotReady):
        list(pool.run(jobs(*names)))
    pool.abandon()


@needs_sshd
def test_another_host_key_is_refused_and_rings(world: World) -> None:
    world.publish(fresh_key()[1])
    with pytest.raises(HostNotReady, match="key is not the one") as refusal:
        list(world.host().run(jobs("a")))
    assert refusal.value.is_fault
    assert world.slot.notes == ["unreachable"]
    log = world.sshd.process.output()
    assert "Connection from" in log
    assert "Accepted" not in log
    assert "publickey" not in log
    assert not world.echo.batches


@needs_sshd
@pytest.mark.parametrize("published", [None, b"{}", b"no JSON", b'{"host_key": "one-word", "release": 7}'])
def test_a_host_that_has_not_said_its_key_is_not_spoken_to(world: World, published: bytes | None) -> None:
    key = place_of_host(HOST_ID) + "ready.json"
    del world.store.objects[key]
    if published is not None:
        world.store.objects[key] = published
    with pytest.raises(HostNotReady) as refusal:
        list(world.host().run(jobs("a")))
    assert refusal.value.is_fault is (published is not None)
    assert not world.endpoint.tunnels


@needs_sshd
def test_a_host_that_does_not_answer(world: World) -> None:
    world.sshd.stop()
    with pytest.raises(HostNotReady):
        list(world.host().run(jobs("a")))
    world.sshd.start()
    world.served.stop()
    with pytest.raises(HostNotReady, match="nothing listens"):
        list(world.host().run(jobs("a")))
    assert world.slot.notes == ["unreachable"] * 2
    wait_for(lambda: not transports(), what="every connection's end")


@needs_sshd
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_an_endpoint_that_refuses_says_nothing_about_the_host(world: World, status: int) -> None:
    """At its limit of 20 tunnels, say, an intact host must not be replaced."""
    world.endpoint.status = status
    with pytest.raises(HostNotReady, match=f"refused a tunnel .status {status}.") as refusal:
        list(world.host().run(jobs("a")))
    assert world.slot.notes == []
    assert refusal.value.is_fault is (status in (401, 403))
    world.endpoint.status = None
    assert results(world.host().run(jobs("a"))) == {"a": "classified"}


@needs_sshd
def test_the_tunnel_sends_no_pings(world: World) -> None:
    """AWS's own client sends none, and an endpoint might not answer them."""
    tunnel = Tunnel(
        signed_url(world.endpoint.url, ENDPOINT_ID, "10.0.0.7", REGION, CREDENTIALS).replace("wss", "ws"),
        time.monotonic() + 5,
    )
    assert tunnel._websocket.ping_interval is None
    tunnel.close()


@needs_sshd
def test_an_endpoint_that_is_away_says_nothing_about_the_host(world: World) -> None:
    world.endpoint.stop()
    with pytest.raises(HostNotReady, match="does not answer"):
        list(world.host().run(jobs("a")))
    assert world.slot.notes == []


@needs_sshd
def test_a_worker_that_died_behind_a_warm_connection_is_reported_to_the_fleet(world: World) -> None:
    host = world.host()
    assert results(host.run(jobs("a"))) == {"a": "classified"}
    world.served.stop()
    with pytest.raises(HostNotReady, match="nothing listens") as refusal:
        list(host.run(jobs("b")))
    assert world.slot.notes == ["reached", "unreachable"]
    assert refusal.value.retry_after <= 10


@needs_sshd
def test_another_endpoint_is_refused(world: World) -> None:
    with pytest.raises(HostNotReady):
        list(world.host(connect_endpoint="eice-other").run(jobs("a")))
    assert world.endpoint.refusals == ["another endpoint or port"]


def test_the_signature_is_that_of_the_documentation() -> None:
    url = signed_url("wss://eice.example", ENDPOINT_ID, "10.0.0.7", REGION, CREDENTIALS)
    assert url.startswith("wss://eice.example/openTunnel?")
    query = dict(parse_qsl(urlsplit(url).query))
    assert (query["privateIpAddress"], query["remotePort"], query["X-Amz-Expires"]) == (
        "10.0.0.7",
        "22",
        "60",
    )
    path = url.removeprefix("wss://eice.example")
    assert signature_problem(path, "eice.example") is None
    assert signature_problem(path.replace("10.0.0.7", "10.0.0.8"), "eice.example") == "wrong signature"
    assert signature_problem(path, "other.example") == "wrong signature"
    assert signature_problem(path, "eice.example", time.time() + 61) == "expired"
    other = Credentials(ACCESS_KEY, "another secret")
    forged = signed_url("wss://eice.example", ENDPOINT_ID, "10.0.0.7", REGION, other)
    assert signature_problem(forged.removeprefix("wss://eice.example"), "eice.example") == "wrong signature"


def transports() -> list[threading.Thread]:
    """Return the SSH connections of this process."""
    return [thread for thread in threading.enumerate() if isinstance(thread, paramiko.Transport)]


def test_a_tunnel_that_was_left_behind_ends_within_15_minutes() -> None:
    """Ensure that tunnels left behind do not use up the endpoint's twenty."""
    url = signed_url("wss://eice.example", ENDPOINT_ID, "10.0.0.7", REGION, CREDENTIALS)
    assert dict(parse_qsl(urlsplit(url).query))["maxTunnelDuration"] == "900"


def test_nobody_at_the_endpoints_address() -> None:
    with pytest.raises(EndpointRefused):
        Tunnel("ws://127.0.0.1:9/openTunnel", time.monotonic() + 5)
