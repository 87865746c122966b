"""The worker's process: its counts, the end of its work, and its HTTP interface."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from ec2_runner.host.agent import Publisher, Reports, serve
from ec2_runner.host.caller import caller, user_of
from ec2_runner.host.http import HttpServer
from ec2_runner.host.server import create_app
from ec2_runner.reach.identity import place_of_host
from pipeline.records import Job, Outcome
from pipeline.running.service import JobsRefused, Service, WorkerState, WorkerStatus
from pipeline.store.folder import FolderStore
from pipeline.verdict import Release
from tests.support.fakes import FakeEngine, InlineHost, MemoryStore, make_judge
from tests.support.machines import free_port, listens, wait_for

RELEASE = Release(number=7, version="test")
TOKEN = "a-token-of-the-tests"


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)


def make_service(store: MemoryStore | None = None, clock: Clock | None = None) -> Service:
    host = InlineHost(make_judge(store or MemoryStore()))
    return Service(host, FakeEngine.model, RELEASE, clock or Clock())


def test_outcomes_come_one_by_one_and_are_counted() -> None:
    store = MemoryStore()
    store.objects.update({"inbox/a": b"P1", "inbox/b": b"boom"})
    service = make_service(store)
    outcomes = service.run([Job("inbox/a"), Job("inbox/b"), Job("inbox/none")], 7)
    assert next(outcomes).result == "classified"
    assert (service.status().state, service.status().active) == ("busy", 3)
    assert [outcome.result for outcome in outcomes] == ["failed", "gone"]
    status = service.status()
    assert (status.state, status.active, status.jobs_a_minute) == ("ready", 0, 2)
    assert status.results == {"classified": 1, "failed": 1, "gone": 1}
    assert status.last_error == "RuntimeError at fakes.py:90"


def test_another_release_is_refused_and_a_newer_one_ends_the_worker() -> None:
    service = make_service()
    with pytest.raises(JobsRefused, match="of release 7"):
        next(service.run([Job("inbox/a")], 6))
    assert service.end is None
    with pytest.raises(JobsRefused):
        next(service.run([Job("inbox/a")], 8))
    assert service.end == "update"
    with pytest.raises(JobsRefused, match="stopping"):
        next(service.run([Job("inbox/a")], 7))


def test_it_idles_only_without_jobs() -> None:
    clock, store = Clock(), MemoryStore()
    service = make_service(store, clock)
    outcomes = service.run([Job("inbox/a"), Job("inbox/b")], 7)
    next(outcomes)
    clock.pass_(minutes=30)
    service.close_if_idle(timedelta(minutes=20))
    assert service.end is None
    list(outcomes)
    clock.pass_(minutes=19)
    service.close_if_idle(timedelta(minutes=20))
    assert service.end is None
    clock.pass_(minutes=2)
    service.close_if_idle(timedelta(minutes=20))
    assert service.end == "idle"


def test_it_knows_since_when_it_is_how_it_is() -> None:
    clock = Clock()
    service = make_service(clock=clock)
    begun = clock()

    def since() -> tuple[str, timedelta]:
        status = service.status()
        return status.state, status.since - begun

    clock.pass_(minutes=1)
    assert since() == ("ready", timedelta(0))
    first, second = (service.run([Job("inbox/a"), Job("inbox/b")]) for _ in range(2))
    next(first)
    clock.pass_(minutes=1)
    next(second)
    assert since() == ("busy", timedelta(minutes=1))
    list(first)
    assert since() == ("busy", timedelta(minutes=1))  # the other jobs are still at work
    clock.pass_(minutes=1)
    list(second)
    assert since() == ("ready", timedelta(minutes=3))
    clock.pass_(minutes=1)
    for _ in range(2):
        service.close()
        assert since() == ("stopping", timedelta(minutes=4))
        clock.pass_(minutes=1)


def client_of(service: Service) -> FlaskClient:
    """Return a client that knows the worker's token."""
    client = create_app(service, TOKEN).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    return client


def test_its_http_face() -> None:
    store = MemoryStore()
    store.objects.update({"inbox/a b\udcff": b"P1", "inbox/b": b"bad"})
    service = make_service(store)
    client = client_of(service)
    answer = client.post("/jobs", json={"release": 7, "jobs": ["inbox/a b\udcff", "inbox/b"]})
    lines = [json.loads(line) for line in answer.data.splitlines()]
    assert [(line["key"], line["result"]) for line in lines] == [
        ("inbox/a b\udcff", "rejected"),
        ("inbox/b", "rejected"),
    ]
    assert client.get("/healthz").json == {
        "state": "ready",
        "release": 7,
        "model": FakeEngine.model.model_dump(),
    }
    assert 'cxr_jobs_total{result="rejected"} 2\n' in client.get("/metrics").text
    assert client.post("/jobs", json={"release": 6, "jobs": []}).status_code == 409
    service.close()
    assert client.post("/jobs", json={"release": 7, "jobs": []}).status_code == 503
    assert client.get("/healthz").status_code == 503


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer é"])
def test_without_its_token_the_worker_does_nothing(given: str | None) -> None:
    store = MemoryStore()
    store.objects["inbox/a"] = b"P1"
    service = make_service(store)
    headers = {} if given is None else {"Authorization": given.encode("utf-8").decode("latin-1")}
    client = create_app(service, TOKEN).test_client()
    answer = client.post("/jobs", json={"release": 8, "jobs": ["inbox/a"]}, headers=headers)
    assert answer.status_code == 401
    assert "CXR_WORKER_TOKEN" in answer.get_json()["message"]
    assert service.end is None
    assert list(store.objects) == ["inbox/a"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8477"},
        {"Host": "a" * 300},
        {"Host": ""},
        {"Origin": "http://localhost:8477"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_no_browser_and_no_other_name_reaches_the_worker(headers: dict[str, str]) -> None:
    client = client_of(make_service())
    for address in ("/healthz", "/metrics"):
        assert client.get(address, headers=headers).status_code == 403
    assert client.post("/jobs", json={"release": 7, "jobs": []}, headers=headers).status_code == 403


@pytest.mark.parametrize("release", [-1, True, "7", 7.5, None, [7], 10**6, 10**30, float("nan")])
def test_a_release_that_makes_no_sense_does_not_end_the_worker(release: object) -> None:
    service = make_service()
    answer = client_of(service).post("/jobs", json={"release": release, "jobs": []})
    assert answer.status_code == 400
    assert "`release`" in answer.get_json()["message"]
    assert service.end is None


NO_JOBS = [
    *(b"", b"no JSON", b"[]", b"{}", b"null", b"[" * 100_000, b'{"release": 7}', b'\xff{"release": 7}'),
    *(b'{"release": 7, "jobs": %b}' % jobs for jobs in (b"null", b'"inbox/a"', b"{}", b"[7]", b"[null]")),
    *(
        b'{"release": 7, "jobs": ["%b"]}' % key
        for key in (b"", b"inbox/", b"a", b"outbox/a.json", b"/inbox/a")
    ),
    b'{"release": 7, "jobs": [' + b'"inbox/a",' * 1000 + b'"inbox/a"]}',
]


@pytest.mark.parametrize("body", NO_JOBS, ids=range(len(NO_JOBS)))
def test_a_body_that_asks_for_no_jobs_of_the_inbox_is_refused_with_a_sentence(body: bytes) -> None:
    service = make_service()
    answer = client_of(service).post("/jobs", data=body, content_type="application/json")
    assert answer.status_code == 400
    assert "send {" in answer.get_json()["message"]
    assert service.status().active == 0


def test_keys_that_lead_out_of_the_inbox_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"P1")
    store = FolderStore(tmp_path / "root")
    service = Service(InlineHost(make_judge(store)), FakeEngine.model, RELEASE)
    keys = ["inbox/../../secret", "inbox/../outbox/x", "inbox/./../../secret", "inbox/a\0b"]
    answer = client_of(service).post("/jobs", json={"release": 7, "jobs": keys})
    results = {json.loads(line)["result"] for line in answer.data.splitlines()}
    assert results <= {"gone", "rejected", "failed"}


@pytest.mark.whole
def test_without_a_token_its_own_user_may_ask_and_no_other() -> None:
    service = make_service()
    served = HttpServer(create_app(service), 0)
    body = '{"release": 7, "jobs": ["inbox/a"]}'
    ask = (
        "import os, sys, urllib.request, urllib.error\n"
        "import encodings.idna\n"  # while it may still read its files
        "if len(sys.argv) > 3: os.setuid(int(sys.argv[3]))\n"
        "headers = {'Content-Type': 'application/json'}\n"
        "asked = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), headers)\n"
        "try: print(urllib.request.urlopen(asked, timeout=10).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
    )
    command = [sys.executable, "-S", "-c", ask, f"http://127.0.0.1:{served.port}/jobs", body]
    try:
        others = ["65534"] if os.getuid() == 0 else []  # only root can play another user
        for user, expected in ([], "200"), *(([other], "401") for other in others):
            done = subprocess.run([*command, *user], capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout.strip() == expected
    finally:
        served.stop()


def test_whose_a_connection_is_stands_in_the_kernels_table() -> None:
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    row = " 1: 0100007F:{port:04X} {rest} {state} 00000000:00000000 00:00000000 00000000 {user} 0 1 1\n"
    rest, elsewhere = f"0100007F:{8477:04X}", f"0100007F:{8478:04X}"
    table = head
    table += row.format(port=50001, rest=rest, state="01", user=1000)
    table += row.format(
        port=50002, rest=rest, state="06", user=0
    )  # closed: the kernel has forgotten its user
    table += row.format(port=50003, rest=elsewhere, state="01", user=0)
    assert [user_of(table, port, 8477) for port in (50001, 50002, 50003, 1)] == [1000, None, None, None]


def test_the_kernel_tells_the_same_as_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = server.getsockname()[1]
        with socket.create_connection(server.getsockname()) as client:
            port = client.getsockname()[1]
            assert caller(port, here) == os.getuid()
            accepted, _ = server.accept()
            with accepted:
                assert caller(port, here) == caller(here, port) == os.getuid()
                assert caller(port, here + 1) is caller(port + 1, here) is caller(0, here) is None
                monkeypatch.setattr(
                    "ec2_runner.host.caller._SOCK_DIAG", 63
                )  # no such family: the table is read
                assert (caller(port, here), caller(port, here + 1)) == (os.getuid(), None)
        accepted.close()
        assert caller(port, here) is None  # closed


def test_jobs_that_nobody_waits_for_are_not_counted_as_active() -> None:
    service = make_service()
    client = client_of(service)
    answer = client.post("/jobs", json={"release": 7, "jobs": ["inbox/a", "inbox/b"]}, buffered=False)
    assert next(answer.iter_encoded())
    answer.close()
    assert service.status().active == 0


class Slow:
    """Answer only when the test allows it."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for job in jobs:
            self.begun.set()
            assert self.go.wait(20)
            yield Outcome(job.key, "classified")

    def abandon(self) -> None:
        self.go.set()


def test_told_to_end_it_finishes_what_it_has_and_says_how_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    monkeypatch.setattr("signal.signal", lambda *_: None)  # not the main thread here
    host, store, port = Slow(), MemoryStore(), free_port()
    service = Service(host, FakeEngine.model, RELEASE)
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 AAAA root@host\n")
    offs: list[bool] = []
    publisher = Publisher(store, "AROA:i-1")
    arguments = (service, port, publisher, timedelta(hours=1), lambda: offs.append(True), key)
    thread = threading.Thread(target=serve, args=arguments, daemon=True)
    thread.start()
    place = place_of_host("AROA:i-1")
    wait_for(lambda: listens(port) and f"{place}ready.json" in store.objects)
    ready = json.loads(store.objects[f"{place}ready.json"])
    assert ready == {"host_key": "ssh-ed25519 AAAA", "release": 7}
    answers: list[bytes] = []

    def ask() -> None:
        request = json.dumps({"release": 7, "jobs": ["inbox/a"]}).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/jobs", request, headers)
        with urllib.request.urlopen(asked, timeout=20) as response:
            answers.append(response.read())

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert host.begun.wait(10)
    service.close()
    time.sleep(0.1)
    assert thread.is_alive()
    host.go.set()
    thread.join(20)
    asking.join(20)
    assert not thread.is_alive()
    assert json.loads(answers[0])["result"] == "classified"
    assert not offs  # told to end is no reason to switch the machine off
    status = WorkerStatus.model_validate_json(store.objects[f"{place}status.json"])
    assert (status.state, status.release, status.model) == ("stopping", RELEASE, FakeEngine.model)


def test_an_idle_host_switches_itself_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("ec2_runner.host.agent._TICK_SECONDS", 0.05)
    (tmp_path / "key").write_text("ssh-ed25519 AAAA")
    offs: list[bool] = []
    store = MemoryStore()
    serve(
        make_service(),
        free_port(),
        Publisher(store, "AROA:i-1"),
        timedelta(0),
        lambda: offs.append(True),
        tmp_path / "key",
    )
    assert offs == [True]


def test_what_a_former_life_published_is_replaced() -> None:
    store = MemoryStore()
    first = Publisher(store, "h")
    first.publish("status.json", {"n": 1})
    second = Publisher(store, "h")
    second.publish("status.json", {"n": 2})
    first.publish("status.json", {"n": 3})  # refused, and looked at again
    first.publish("status.json", {"n": 4})
    assert json.loads(store.objects["system/hosts/h/status.json"]) == {"n": 4}


def test_a_state_that_changes_each_second_is_not_reported_each_second() -> None:
    """Each report is a request that costs money, and a version that the bucket keeps."""
    reports = Reports()
    states: list[WorkerState] = ["ready", "busy"]
    said = [second for second in range(600) if reports.is_due(states[second % 2], second)]
    assert len(said) <= 61
    assert max(later - earlier for earlier, later in pairwise(said)) <= 11


def test_a_change_is_reported_at_once_where_it_is_the_first_for_a_while_and_where_it_is_the_last() -> None:
    reports = Reports()
    assert reports.is_due("ready", 0)
    assert not any(reports.is_due("ready", second) for second in range(1, 30))
    assert reports.is_due("ready", 30)
    assert reports.is_due("busy", 41)
    assert not reports.is_due("ready", 42)
    assert reports.is_due("stopping", 43)
