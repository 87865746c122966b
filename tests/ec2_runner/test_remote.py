"""A host on another machine, over plain streams and over a real SSH server on the loopback."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ec2_runner.reach import remote
from ec2_runner.reach.remote import RemoteHost
from ec2_runner.reach.route import SshRoute
from ec2_runner.reach.ssh import ConnectFailed, NobodyListens, connect, dial, fresh_key
from ec2_runner.reach.worker_client import ByteStream
from pipeline.errors import HostNotDone, HostNotReady, UsageError
from pipeline.records import Job, Outcome
from pipeline.settings import Settings
from pipeline.verdict import Release
from tests.support.machines import SSHD, USER, Sshd, free_port, wait_for
from tests.support.remotes import RELEASE, Echo, Plain, PlainRoute, Served

needs_sshd = pytest.mark.skipif(not Path(SSHD).exists(), reason="OpenSSH's server is not installed")


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def served(echo: Echo) -> Iterator[Served]:
    served = Served(echo)
    echo.abort = served.break_off
    yield served
    served.stop()


def jobs(*names: str) -> list[Job]:
    return [Job(f"inbox/{name}") for name in names]


def results(outcomes: Iterable[Outcome]) -> dict[str, str]:
    return {outcome.key.removeprefix("inbox/"): outcome.result for outcome in outcomes}


def test_outcomes_stream_back_and_the_connection_is_kept(served: Served) -> None:
    route = PlainRoute()
    host = RemoteHost(route, served.port, RELEASE)  # type: ignore[arg-type]
    assert results(host.run(jobs("a", "b"))) == {"a": "classified", "b": "classified"}
    assert results(host.run(jobs("c"))) == {"c": "classified"}
    assert route.opened == 1


@pytest.mark.parametrize("begin", ["run", "reach"])
def test_a_connection_whose_tunnel_would_end_in_the_batch_is_renewed(
    served: Served, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    route = PlainRoute()
    host = RemoteHost(route, served.port, RELEASE)  # type: ignore[arg-type]
    results(host.run(jobs("a")))
    monkeypatch.setattr(remote, "_RENEWED_SECONDS", 0.0)
    results(host.run(jobs("b"))) if begin == "run" else host.reach()
    assert route.opened == 2


def test_a_job_that_had_a_part_of_the_time_has_not_failed() -> None:
    """Play the last share of a batch in the pool: it is tried alone the next time."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = RemoteHost(PlainRoute(), silent.getsockname()[1], RELEASE)  # type: ignore[arg-type]
        with pytest.raises(HostNotDone) as late:
            list(host.run(jobs("a"), time.monotonic() + 0.3))
    assert late.value.tried == {"inbox/a"}


def test_the_first_outcome_comes_before_the_last_is_ready() -> None:
    release = threading.Event()

    class Two:
        def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
            first, second = jobs
            yield Outcome(first.key, "classified")
            assert release.wait(10)
            yield Outcome(second.key, "classified")

    served = Served(Two())
    outcomes = RemoteHost(PlainRoute(), served.port, RELEASE).run(jobs("a", "b"))  # type: ignore[arg-type]
    assert next(outcomes).key == "inbox/a"
    release.set()
    assert next(outcomes).key == "inbox/b"
    served.stop()


def test_of_a_batch_that_breaks_off_the_rest_is_tried_one_by_one(served: Served, echo: Echo) -> None:
    host = RemoteHost(PlainRoute(), served.port, RELEASE)  # type: ignore[arg-type]
    names = [*(f"good{n}" for n in range(5)), "poison", *(f"more{n}" for n in range(5))]
    found = results(host.run(jobs(*names)))
    assert found == {name: "failed" if name == "poison" else "classified" for name in names}
    first, *others = echo.batches
    assert len(first) == 11
    assert {len(batch) for batch in others} == {1}
    assert 6 <= len(others) <= 10  # the last answers before the crash were lost: asked for again


def test_a_single_job_that_breaks_off_is_not_tried_again_here(served: Served, echo: Echo) -> None:
    host = RemoteHost(PlainRoute(), served.port, RELEASE)  # type: ignore[arg-type]
    assert results(host.run(jobs("poison"))) == {"poison": "failed"}
    assert len(echo.batches) == 1


def test_a_worker_that_restarts_is_waited_for(served: Served, echo: Echo) -> None:
    class Restarting(PlainRoute):
        """Listen again only some time after the crash."""

        def open(self, deadline: float) -> Plain:
            self.opened += 1
            if 1 < self.opened < 4:
                raise HostNotReady("it starts")
            return super().open(deadline)

    route = Restarting()
    host = RemoteHost(route, served.port, RELEASE)  # type: ignore[arg-type]
    echo.abort = lambda: (host.close(), served.break_off())  # type: ignore[assignment,func-returns-value]
    found = results(host.run(jobs("a", "poison", "b")))
    assert found == {"a": "classified", "poison": "failed", "b": "classified"}
    assert route.opened >= 4


def test_a_worker_that_does_not_come_back_leaves_suspects(
    served: Served, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is tried alone the next time; then the one that ends the worker fails, and SQS counts it."""
    monkeypatch.setattr(remote, "_RESTART_SECONDS", 0.1)

    class Gone(PlainRoute):
        def open(self, deadline: float) -> Plain:
            self.opened += 1
            if self.opened > 1:
                raise HostNotReady("it starts")
            return super().open(deadline)

    host = RemoteHost(Gone(), served.port, RELEASE)  # type: ignore[arg-type]
    echo.abort = lambda: (host.close(), served.break_off())  # type: ignore[assignment,func-returns-value]
    with pytest.raises(HostNotDone, match="it starts") as broken:
        list(host.run(jobs("poison", "b")))
    assert broken.value.tried == {"inbox/poison", "inbox/b"}
    tried = [replace(job, tries=1) for job in jobs("b", "poison", "c")]
    back = RemoteHost(PlainRoute(), served.port, RELEASE)  # type: ignore[arg-type]
    echo.abort = served.break_off
    echo.batches.clear()
    assert results(back.run(tried)) == {"b": "classified", "poison": "failed", "c": "classified"}
    assert {len(batch) for batch in echo.batches} == {1}
    last = RemoteHost(Gone(), served.port, RELEASE)  # type: ignore[arg-type]
    echo.abort = lambda: (last.close(), served.break_off())  # type: ignore[assignment,func-returns-value]
    outcomes = last.run(tried)
    assert next(outcomes).key == "inbox/b"
    assert next(outcomes) == Outcome("inbox/poison", "failed", "it starts")  # though the machine is gone, too
    with pytest.raises(HostNotReady) as gone:
        next(outcomes)
    assert not isinstance(gone.value, HostNotDone)  # so the third job waits for a host, untried


def test_who_takes_no_jobs_is_not_ready(served: Served) -> None:
    other = RemoteHost(PlainRoute(), served.port, Release(number=6, version="old"))  # type: ignore[arg-type]
    with pytest.raises(HostNotReady, match="another release"):
        list(other.run(jobs("a")))
    served.service.close()
    host = RemoteHost(PlainRoute(), served.port, RELEASE)  # type: ignore[arg-type]
    with pytest.raises(HostNotReady, match="stopping"):
        list(host.run(jobs("a")))
    nobody = RemoteHost(PlainRoute(), free_port(), RELEASE)  # type: ignore[arg-type]
    with pytest.raises(HostNotReady, match="nobody listens"):
        list(nobody.run(jobs("a")))


def test_a_worker_that_does_not_listen_any_more_is_reported_though_its_connection_lives(
    served: Served,
) -> None:
    class Reporting(PlainRoute):
        """Act like `Ec2Route`: notice whether the worker listens, and tell the fleet if not."""

        unreachable = 0

        def open(self, deadline: float) -> Plain:
            connection = super().open(deadline)
            try:
                connection.open(served.port).close()
            except NobodyListens as error:
                self.unreachable += 1
                raise HostNotReady(str(error)) from error
            return connection

    route = Reporting()
    host = RemoteHost(route, served.port, RELEASE)  # type: ignore[arg-type]
    assert results(host.run(jobs("a"))) == {"a": "classified"}
    served.stop()
    for tries in (1, 2):
        with pytest.raises(HostNotReady, match="nobody listens"):
            list(host.run(jobs("b")))
        assert route.unreachable == tries


def test_a_worker_that_restarts_is_looked_for_through_the_connection_that_lives(
    served: Served, echo: Echo
) -> None:
    class Warm(Plain):
        """Listen again only after two looks after the crash."""

        looks = 0

        def open(self, port: int) -> ByteStream:
            if len(echo.batches) == 1 and self.looks < 2:
                self.looks += 1
                raise NobodyListens("nobody listens")
            return super().open(port)

    class Route(PlainRoute):
        def open(self, deadline: float) -> Plain:
            self.opened += 1
            return Warm()

    route = Route()
    host = RemoteHost(route, served.port, RELEASE)  # type: ignore[arg-type]
    assert results(host.run(jobs("poison", "b"))) == {"poison": "failed", "b": "classified"}
    assert route.opened == 1


def test_a_worker_that_asks_for_a_token_is_told_it() -> None:
    served = Served(Echo(), token="a-token-of-the-tests")
    host = RemoteHost(PlainRoute(), served.port, RELEASE, "a-token-of-the-tests")  # type: ignore[arg-type]
    assert results(host.run(jobs("a"))) == {"a": "classified"}
    stranger = RemoteHost(PlainRoute(), served.port, RELEASE, "another")  # type: ignore[arg-type]
    with pytest.raises(HostNotReady, match="CXR_WORKER_TOKEN") as refusal:
        list(stranger.run(jobs("a")))
    assert refusal.value.is_fault
    served.stop()


def test_a_silent_worker_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BATCH_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = RemoteHost(PlainRoute(), silent.getsockname()[1], RELEASE)  # type: ignore[arg-type]
        clock = time.monotonic()
        assert results(host.run(jobs("a"))) == {"a": "failed"}  # it had the whole time for itself
        with pytest.raises(HostNotDone, match="too long") as late:
            list(host.run(jobs("a", "b")))
        assert late.value.tried == {"inbox/a", "inbox/b"}
        known = [replace(job, tries=tries) for tries, job in enumerate(jobs("new", "once", "twice"))]
        outcomes = host.run(known)
        assert next(outcomes) == Outcome("inbox/twice", "failed", "the batch took too long")
        with pytest.raises(HostNotDone, match="no time was left") as rest:
            next(outcomes)
        assert rest.value.tried == set()
        assert time.monotonic() - clock < 5


@pytest.fixture
def sshd(served: Served, tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd", served.port)
    yield server
    server.stop()


@pytest.fixture
def settings(sshd: Sshd, tmp_path: Path) -> Settings:
    """Return the settings for a workstation that judges, reached by SSH with a key file."""
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=20)
    sshd.authorized.write_text(key.with_suffix(".pub").read_text())
    return Settings(host="ssh", ssh=f"{USER}@127.0.0.1:{sshd.port}", ssh_key=key, ssh_host_key=sshd.host_key)


@needs_sshd
def test_jobs_go_through_a_real_ssh_server(settings: Settings, served: Served, sshd: Sshd) -> None:
    host = RemoteHost(SshRoute(settings), served.port, RELEASE)
    names = [str(n) for n in range(32)]
    assert results(host.run(jobs(*names))) == dict.fromkeys(names, "classified")
    sshd.stop()
    with pytest.raises(HostNotReady):
        list(host.run(jobs("a")))
    sshd.start()
    assert results(host.run(jobs("a"))) == {"a": "classified"}
    host.close()


@needs_sshd
def test_a_connection_cut_in_the_middle_loses_nothing(
    settings: Settings, served: Served, sshd: Sshd, echo: Echo
) -> None:
    def cut() -> None:
        if len(echo.batches) == 1:
            sshd.stop()
            sshd.start()

    echo.abort = cut
    host = RemoteHost(SshRoute(settings), served.port, RELEASE)
    found = results(host.run(jobs("a", "poison", "b")))
    assert found == {"a": "classified", "poison": "classified", "b": "classified"}
    host.close()


@needs_sshd
def test_another_host_key_is_refused_before_anything_is_said(settings: Settings, sshd: Sshd) -> None:
    for wrong in (fresh_key()[1], "ecdsa-sha2-nistp256 AAAA"):
        route = SshRoute(settings.model_copy(update={"ssh_host_key": wrong}))
        with pytest.raises(HostNotReady, match="key") as refusal:
            route.open(time.monotonic() + 10)
        assert refusal.value.is_fault
    log = sshd.process.output()
    assert "Connection from" in log
    assert USER not in log.replace(str(sshd.folder), "")  # neither the user nor any key is logged
    assert "Accepted" not in log


@needs_sshd
def test_it_reaches_the_workers_port_and_no_other(settings: Settings, served: Served) -> None:
    connection = SshRoute(settings).open(time.monotonic() + 10)
    with pytest.raises(NobodyListens):
        connection.open(free_port())
    connection.open(served.port).close()
    connection.close()


@needs_sshd
def test_a_key_that_is_not_let_in(settings: Settings, sshd: Sshd) -> None:
    sshd.authorized.write_text("")
    with pytest.raises(HostNotReady, match="AuthenticationException"):
        SshRoute(settings).open(time.monotonic() + 10)


def test_no_key_at_all_is_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ec2_runner.reach.ssh import own_keys

    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(UsageError, match="CXR_SSH_KEY"):
        own_keys(None)
    (tmp_path / "key").write_text("no key")
    with pytest.raises(UsageError, match="CXR_SSH_KEY"):
        own_keys(tmp_path / "key")


def test_a_server_that_never_speaks_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        deadline = time.monotonic() + 0.5
        pipe = dial("127.0.0.1", silent.getsockname()[1], deadline)
        clock = time.monotonic()
        with pytest.raises(ConnectFailed):
            connect(pipe, "a", [], fresh_key()[1], deadline)
        assert time.monotonic() - clock < 5
    wait_for(lambda: not any(thread.name.startswith("paramiko") for thread in threading.enumerate()))
