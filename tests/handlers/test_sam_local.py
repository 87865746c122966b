"""`sam local invoke` in a container: the choices, the messages when something is missing, a whole run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer

from events import engine, stage
from events.answer import Answer, answer_of, readable
from events.engine import CannotRun, Engine, find_engine
from events.invoke import choose, invoke_command, read_event
from events.stage import Choice, functions, missing, runtime, with_variables
from pipeline.events import s3_event
from tests.support.aws import ROOT, template
from tests.support.hosts import make_command
from tests.support.machines import Process, free_port

EVENTS = sorted(ROOT.glob("events/*.json"))
DAEMON_IS_OFF = 'echo "Cannot connect to the Docker daemon" >&2; [ $1 = --version ]'


@pytest.mark.timeout(600)
def test_an_event_runs_in_lambdas_container() -> None:
    """Run one of them; `make smoke` runs all, and fetches or builds the image first."""
    try:
        found = find_engine()
    except CannotRun as problem:
        pytest.skip(str(problem))
    images = (name.format(python=runtime(), machine=stage.MACHINE) for name in (engine.PUBLIC, engine.OWN))
    if not any(map(found.has, images)):
        pytest.skip("the image of Lambda's runtime is not here: run `make smoke` once")
    command = [sys.executable, "-m", "events.invoke", "events/s3_put.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)["outcomes"]
    assert [(outcome["key"], outcome["result"]) for outcome in outcomes] == [
        ("inbox/pneumonia-1.jpeg", "classified")
    ]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder in which commands are found, but for `sh`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("ENGINE", raising=False)
    return folder


class Scripted(Engine):
    """Answer an engine's commands from a table of their first words; any other succeeds in silence."""

    def __init__(self, name: str = "docker", **answers: tuple[int, str, str]) -> None:
        super().__init__(name)
        self.answers, self.ran = answers, list[tuple[str, ...]]()

    def run(self, *arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
        self.ran.append(arguments)
        return subprocess.CompletedProcess(arguments, *self.answers.get(arguments[0], (0, "", "")))


def test_an_engine_that_does_not_answer_is_named_with_its_reason(path: Path) -> None:
    make_command(path / "docker", DAEMON_IS_OFF)
    with pytest.raises(CannotRun) as told:
        find_engine()
    assert str(told.value) == (
        "no container engine answers (docker: Cannot connect to the Docker daemon; podman: not installed): "
        "start Docker, or install podman"
    )


@pytest.mark.parametrize("docker", [DAEMON_IS_OFF, "echo podman version 5.0"], ids=["off", "podman's"])
def test_podman_is_taken_where_docker_does_not_answer(path: Path, docker: str) -> None:
    make_command(path / "docker", docker)
    make_command(path / "podman", "")
    assert find_engine().name == "podman"


def test_docker_comes_first_unless_another_engine_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker", "podman"):
        make_command(path / name, "")
    assert find_engine().name == "docker"
    monkeypatch.setenv("ENGINE", "podman")
    assert find_engine().name == "podman"
    monkeypatch.setenv("ENGINE", "lxc")
    with pytest.raises(CannotRun, match="ENGINE=lxc: set it to docker or podman"):
        find_engine()


def test_an_image_that_is_here_is_not_fetched() -> None:
    here = Scripted()
    assert here.image("3.13", "x86_64", print) == engine.PUBLIC.format(python="3.13", machine="x86_64")
    assert {arguments[0] for arguments in here.ran} == {"image"}


def test_without_a_registry_the_image_is_built_or_the_obstacle_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offline = Scripted(image=(1, "", "no such image"), pull=(1, "", "trying\nno such host\n"))
    monkeypatch.setattr(engine, "why_not_build", lambda: "that needs root")
    with pytest.raises(
        CannotRun, match=r"cannot be fetched \(no such host\), and not be built: that needs root"
    ):
        offline.image("3.13", "x86_64", print)
    built = []
    monkeypatch.setattr(engine, "why_not_build", lambda: None)
    monkeypatch.setattr(Engine, "_build", lambda _, *image: built.append(image))
    own = offline.image("3.13", "x86_64", print)
    assert built == [(own, "3.13", "x86_64")]


def test_an_image_can_be_built_for_the_templates_python() -> None:
    assert runtime() in engine.DEBIAN


def test_podman_gets_lambdas_limits_where_it_asks_for_too_much(tmp_path: Path) -> None:
    class Strict(Scripted):
        def run(self, *arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
            self.ran.append(arguments)
            bad = arguments[0] == "run" and "CONTAINERS_CONF" not in self.environment
            error = "runc: error setting rlimits: operation not permitted" if bad else ""
            out = "127.0.0.1" if arguments[0] == "exec" else ""
            return subprocess.CompletedProcess(arguments, int(bad), out, error)

    strict = Strict("podman")
    strict._hold("name", "image", tmp_path)
    assert "nofile=1024" in Path(strict.environment["CONTAINERS_CONF"]).read_text()


def test_a_container_that_does_not_start_is_told_with_the_engines_reason() -> None:
    broken = Scripted("podman", run=(125, "", "Error: failed to find iptables\n"))
    wanted = "podman cannot start a container: Error: failed to find iptables"
    with pytest.raises(CannotRun, match=wanted), broken.ready("image"):
        pass
    assert broken.ran[-1][0] == "rm"


def test_the_address_is_one_that_containers_do_reach() -> None:
    class Here(Scripted):
        reachable: ClassVar[bool] = True

        def run(self, *arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
            if "gethostbyname" in arguments[-1]:
                return subprocess.CompletedProcess(arguments, 0, "127.0.0.1\n", "")
            if not self.reachable:
                return subprocess.CompletedProcess(arguments, 1, "", "timed out")
            command = [sys.executable, "-c", arguments[-1]]
            return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert Here()._addresses("name") == engine.Addresses("127.0.0.1", "127.0.0.1")
    Here.reachable = False
    with pytest.raises(
        CannotRun, match=r"do not reach this machine at 127\.0\.0\.1: let its firewall accept"
    ):
        Here()._addresses("name")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"AWS_ENDPOINT_URL": "http://localhost:9000"}, "AWS_ENDPOINT_URL=http://localhost:9000"),
        ({"AWS_ENDPOINT_URL_S3": "10.1.2.3:9000"}, "write it as http://"),
        ({"AWS_ENDPOINT_URL_S3": "http://10.1.2.3:9000"}, "set CXR_BUCKET"),
        ({"CXR_SSH": "me@10.1.2.3"}, "set AWS_ENDPOINT_URL_S3 as well"),
        (
            {"CXR_SSH": "me@10.1.2.3", "AWS_ENDPOINT_URL": "http://10.1.2.3:9000", "CXR_BUCKET": "b"},
            "set CXR_SSH_KEY, too",
        ),
    ],
)
def test_a_choice_that_cannot_work_is_told(given: dict[str, str], told: str) -> None:
    with pytest.raises(CannotRun, match=told) as error:
        Choice.of(given)
    assert "\n" not in str(error.value)


def test_parts_of_the_users_own_replace_ours() -> None:
    assert Choice.of({"CXR_BUCKET": "mine", "AWS_ENDPOINT_URL": ""}) == Choice()
    s3 = {"AWS_ENDPOINT_URL_S3": "http://10.1.2.3:9000", "CXR_BUCKET": "mine", "CXR_STACK": "mine"}
    assert Choice.of(s3) == Choice(s3="http://10.1.2.3:9000", bucket="mine")
    everything = {"AWS_ENDPOINT_URL": "http://10.1.2.3:5000", "CXR_BUCKET": "mine", "CXR_STACK": "ward"}
    assert Choice.of(everything) == Choice("http://10.1.2.3:5000", None, "mine", "ward")


def test_missing_programs_are_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    make_command(path / "make", "")
    monkeypatch.setattr(stage, "SSHD", "/nowhere/sshd")
    assert missing(Choice()) == "sshd is missing: install the OpenSSH server (`apt install openssh-server`)"
    assert missing(Choice(s3="http://10.1.2.3:9000", ssh="me@10.1.2.3")) is None
    (path / "make").unlink()
    assert missing(Choice()) == "make is missing: it builds the functions' package"


def test_the_function_follows_from_the_event_or_its_name() -> None:
    assert set(functions()) == {"ingest", "record", "dead_letter", "reconcile", "reap"}
    assert functions()["dead_letter"] == "DeadLetterFunction"
    for event in EVENTS:
        assert choose("", read_event(event)) == "ingest", event.name
    assert choose("", None) == "ingest"
    assert choose("", s3_event("b", ["outbox/a.jpeg.json"])) == "record"
    assert choose("", {"source": "aws.events", "detail-type": "Scheduled Event"}) == "reconcile"
    for name in ("dead_letter", "dead-letter", "deadletter", "DeadLetterFunction"):
        assert choose(name, None) == "dead_letter"
    with pytest.raises(CannotRun, match="FUNCTION=judge: choose from ingest, record, dead_letter"):
        choose("judge", None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        ("[]", "an event is a JSON object"),
        (b"\xff", "is not JSON"),
    ],
)
def test_a_bad_event_is_one_line(
    content: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = tmp_path / "event.json"
    if content is not None:
        event.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(typer.Exit) as ended:
        invoke_command(str(event), "", "")
    assert ended.value.exit_code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"invoke: EVENT={event}")
    assert told in error
    assert error.count("\n") == 1


def test_the_template_gets_the_variables_that_sam_would_drop(tmp_path: Path) -> None:
    before = json.dumps(template())
    found = json.loads(json.dumps(with_variables(tmp_path, {"CXR_SSH": "me@10.1.2.3", "CXR_HOST": "ssh"})))
    function = found["Globals"]["Function"]
    variables = function["Environment"]["Variables"]
    assert (function["CodeUri"], variables["CXR_SSH"], variables["CXR_HOST"]) == (
        str(tmp_path),
        "me@10.1.2.3",
        "ssh",
    )
    assert set(variables) > {"CXR_BUCKET", "CXR_INSTANCE_TYPES"}
    assert found["Resources"] == template()["Resources"]
    assert json.dumps(template()) == before


def test_the_log_is_shown_as_a_person_would_write_it() -> None:
    metrics = {"_aws": {"CloudWatchMetrics": [{"Metrics": [{"Name": "Classified"}]}]}, "Classified": [1.0]}
    log = [
        "START RequestId: 1 Version: $LATEST",
        json.dumps({"level": "INFO", "location": "ingest:75", "message": "9f: classified", "timestamp": "t"}),
        json.dumps(metrics),
        "null",
        "Traceback",
        "END RequestId: 1",
    ]
    assert readable("\n".join(log)) == [
        "INFO 9f: classified",
        "figures: Classified 1.0",
        "null",
        "Traceback",
    ]


@pytest.mark.parametrize(
    ("out", "code", "error"),
    [
        ('noise\n{"recorded": 1}\n', 0, None),
        ('{"errorMessage": "no queue", "errorType": "UsageError"}', 0, "UsageError: no queue"),
        ("", 0, "the function gave no answer"),
        ("", 1, "SAM ended with exit code 1"),
        ("", None, "no answer in 300 s"),
    ],
)
def test_an_answer_is_told_from_a_failure(out: str, code: int | None, error: str | None) -> None:
    assert answer_of(out, code, "", 300.0).error == error


def test_of_the_outcomes_those_without_a_verdict_are_failures() -> None:
    outcomes = [{"key": "a", "result": result} for result in ("classified", "gone", "failed", "waiting")]
    assert Answer({"outcomes": outcomes}, None, "", 1.0).failures == ["failed", "waiting"]
    assert Answer({}, None, "", 1.0).failures == []


def test_a_server_that_ends_at_once_is_told_with_what_it_wrote(tmp_path: Path) -> None:
    process = Process([sys.executable, "-c", "raise SystemExit('cannot bind')"], tmp_path / "log")
    with pytest.raises(AssertionError, match="moto did not start:\ncannot bind"):
        process.wait_until_listening(free_port(), "127.0.0.1", "moto")


def test_the_holding_container_is_removed_while_its_settings_are_still_there() -> None:
    """podman refuses every command when the file that CONTAINERS_CONF names is gone."""

    class Podman(Scripted):
        def run(self, *arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
            self.ran.append(arguments)
            settings = self.environment.get("CONTAINERS_CONF")
            error = "rlimits" if arguments[0] == "run" and not settings else ""
            error = "no such file" if settings and not Path(settings).exists() else error
            if arguments[0] == "rm" and not error:
                removed.append(arguments[-1])
            error = error or ("no address" if arguments[0] == "exec" else "")
            return subprocess.CompletedProcess(arguments, bool(error), "", error)

    removed: list[str] = []
    podman = Podman("podman")
    with pytest.raises(CannotRun), podman.ready("image"):
        pass
    assert podman.environment == {}
    assert removed[-1].startswith("cxr-")
