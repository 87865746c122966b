"""S3 with errors, delays and lost answers: nothing is lost, and nothing wrong is written."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

from handlers import wiring
from pipeline.judge import Judge
from pipeline.records import Job
from pipeline.store.s3 import S3Store
from pipeline.verdict import Release
from tests.support.fakes import LIMIT, FakeEngine
from tests.support.machines import Moto, aws_environment

KEY = "inbox/a.jpeg"
Fault = Callable[[Any], AWSResponse]


class Raw(io.BytesIO):
    """Stream the body of a response, as urllib3 does."""

    def stream(self, *_: object, **__: object) -> Any:
        yield self.read()


def says(status: int, code: str) -> Fault:
    """Return an error answer of S3."""

    def fault(request: Any) -> AWSResponse:
        body = f"<Error><Code>{code}</Code><Message/></Error>".encode()
        if request.method == "HEAD":
            body = b""
        return AWSResponse(request.url, status, {"content-length": str(len(body))}, Raw(body))

    return fault


def never_answers(error: Callable[..., Exception]) -> Fault:
    def fault(request: Any) -> AWSResponse:
        raise error(endpoint_url=request.url)

    return fault


class World:
    """Hold a bucket with one X-ray and the worker's client, whose next answers may be faults."""

    def __init__(self) -> None:
        self.other = boto3.client("s3")
        self.other.create_bucket(Bucket="cxr-test")
        self.plain = S3Store("cxr-test", self.other)
        self.plain.put(KEY, b"P1", None)
        self.faults: dict[str, list[Fault | None]] = {}
        self.asked: list[str] = []
        self.client = wiring.aws().client("s3")
        self.client.meta.events.register_first("before-send.s3", self._send)
        self.store = S3Store("cxr-test", self.client)
        self.judge = Judge(self.store, FakeEngine(), Release(number=1, version="test"), LIMIT)

    def _send(self, request: Any, **_: object) -> AWSResponse | None:
        what = f"{request.method} {'verdict' if 'outbox/a.jpeg.json' in request.url else 'other'}"
        if "inbox/" in request.url:
            what = f"{request.method} image"
        self.asked.append(what)
        faults = self.faults.get(what)
        fault = faults.pop(0) if faults else None
        return fault(request) if fault else None

    def result(self) -> str:
        return self.judge.judge(Job(KEY)).result

    def verdicts(self) -> list[str]:
        return [info.key for info in self.plain.list("outbox/") if info.key.endswith(".json")]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """Start moto in a process: inside this one it would take the requests that are to be lost."""
    moto = Moto(tmp_path_factory.mktemp("moto"))
    yield moto
    moto.stop()


@pytest.fixture
def world(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> World:
    moto.reset()
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    for name, value in aws_environment(moto).items():
        monkeypatch.setenv(name, value)
    return World()


PASSING = [
    says(500, "InternalError"),
    says(503, "SlowDown"),
    never_answers(ReadTimeoutError),
    never_answers(ConnectTimeoutError),
]


@pytest.mark.parametrize("what", ["GET verdict", "GET image", "PUT verdict", "PUT other"])
@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_ridden_out(world: World, what: str, fault: Fault) -> None:
    world.faults[what] = [fault, fault]
    assert world.result() == "classified"
    assert world.asked.count(what) >= 3
    assert world.verdicts() == ["outbox/a.jpeg.json"]


@pytest.mark.parametrize("what", ["GET verdict", "GET image", "PUT verdict", "PUT other"])
@pytest.mark.parametrize("fault", PASSING)
def test_what_lasts_is_left_to_the_queue(world: World, what: str, fault: Fault) -> None:
    world.faults[what] = [fault] * 4
    assert world.result() == "failed"
    assert world.verdicts() == []
    assert world.result() == "classified"  # the next delivery
    assert world.verdicts() == ["outbox/a.jpeg.json"]


@pytest.mark.parametrize("what", ["GET verdict", "GET image"])
def test_a_missing_key_that_reads_as_forbidden_is_not_taken_for_missing(world: World, what: str) -> None:
    """S3 answers so to a role without `s3:ListBucket`."""
    world.faults[what] = [says(403, "AccessDenied")]
    outcome = world.judge.judge(Job(KEY))
    assert outcome.result == "failed"
    assert "AccessDenied" in outcome.detail
    assert KEY not in outcome.detail
    assert world.verdicts() == []


def test_an_answer_that_breaks_off(world: World) -> None:
    def cut(request: Any) -> AWSResponse:
        headers = {"content-length": "1000", "etag": '"e"', "last-modified": "Tue, 24 Nov 2026 09:00:00 GMT"}
        return AWSResponse(request.url, 200, headers, Raw(b"P1"))

    world.faults["GET image"] = [cut]
    assert world.result() == "failed"
    assert world.verdicts() == []
    assert world.result() == "classified"


def test_a_write_that_was_made_though_its_answer_was_lost(world: World) -> None:
    """The repeated request meets its own object, looks again, and finds the work done."""

    def made(request: Any) -> AWSResponse:
        body = request.body if isinstance(request.body, bytes) else request.body.read()
        world.other.put_object(Bucket=world.store.bucket, Key="outbox/a.jpeg.json", Body=body)
        return says(500, "InternalError")(request)

    world.faults["PUT verdict"] = [made]
    assert world.result() == "current"
    assert world.verdicts() == ["outbox/a.jpeg.json"]


def test_a_write_that_loses_its_race(world: World) -> None:
    """Another worker judged newer bytes between our look and our write; ours gives way."""

    def raced(request: Any) -> AWSResponse:
        world.plain.put(KEY, b"N2", world.plain.head(KEY).etag)  # type: ignore[union-attr]
        Judge(world.plain, FakeEngine(), Release(number=1, version="test"), LIMIT).judge(Job(KEY))
        return None  # type: ignore[return-value]  and S3 itself answers: it refuses

    world.faults["PUT verdict"] = [raced]
    assert world.result() == "current"
    found = world.plain.get("outbox/a.jpeg.json", LIMIT)
    assert found
    assert b'"normal"' in found[1]
