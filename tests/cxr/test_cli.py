"""The commands, as people and programs run them."""

import json
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.settings import load_settings
from pipeline.verdict import Verdict
from tests.support import pictures
from tests.support.commands import cxr, process
from tests.support.fakes import SAMPLES
from tests.test_imports import ONLY, OURS

EVENTS = SAMPLES.parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES, tmp_path / "inbox")
    return tmp_path


def test_replay_twice_the_second_time_all_is_current(root: Path) -> None:
    events = sorted(EVENTS.glob("*.json"))
    first, second = cxr("replay", *events, "--root", root), cxr("replay", *events, "--root", root)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    lines = first.stdout.decode().splitlines()
    assert len([line for line in lines if line.endswith(": classified")]) == 9
    assert "s3_many.json: inbox/photograph-1.png: rejected" in lines
    assert "s3_odd_keys.json: inbox/odd keys/Röntgen 胸部 (1).jpeg: classified" in lines
    assert "s3_test_event.json: ignored: S3's test of the connection" in lines
    assert len(list((root / "outbox").rglob("*.json"))) == 10
    again = [line for line in second.stdout.decode().splitlines() if "ignored" not in line]
    assert again
    assert all(line.endswith(": current") for line in again)


def test_replay_says_what_is_wrong_with_an_event(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    answer = cxr("replay", path, "--root", tmp_path)
    assert (answer.returncode, answer.stdout) == (2, b"")
    assert answer.stderr.decode().count("\n") == 1
    assert b"is not a JSON event" in answer.stderr
    assert cxr("replay", path, "--root", tmp_path / "root").returncode == 2
    assert not (tmp_path / "root").exists()


def test_an_error_does_not_act_on_the_terminal() -> None:
    answer = process("classify", "a\033[31mb\r")
    assert (answer.returncode, answer.stderr) == (2, b"cxr: a\\x1b[31mb\\r: there is no such file\n")


def test_an_empty_path_is_wrong_use_and_an_empty_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/.hidden").touch()
    for words in (["classify", ""], ["backfill", "", tmp_path / "out"], ["backfill", tmp_path, ""]):
        answer = cxr(*words)
        assert answer.returncode == 2
        assert b" is empty: name a " in answer.stderr
    for words in (["classify", tmp_path / "empty"], ["backfill", tmp_path / "empty", tmp_path / "out"]):
        answer = cxr(*words)
        assert (answer.returncode, answer.stdout) == (0, b"")
        assert answer.stderr.decode() == f"There are no X-rays in {tmp_path}/empty: nothing was judged.\n"
    assert not (tmp_path / "out").exists()


def test_classify_prints_one_verdict_a_line_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "bad.jpeg").write_text("no image")
    (tmp_path / "sub").mkdir()
    shutil.copy(pictures.SAMPLE, tmp_path / "sub/good")
    answer = process("classify", "--json", tmp_path, "-", stdin=pictures.SAMPLE.read_bytes())
    assert answer.returncode == 1
    assert answer.stderr == b""
    verdicts = [Verdict.from_json(line) for line in answer.stdout.splitlines()]
    assert [verdict.status for verdict in verdicts] == ["rejected", "classified", "classified"]
    assert [verdict.source.key for verdict in verdicts] == [
        f"{tmp_path}/bad.jpeg",
        f"{tmp_path}/sub/good",
        "-",
    ]
    assert verdicts[1].finding == verdicts[2].finding
    assert verdicts[1].source.sha256 == verdicts[2].source.sha256


def test_classify_for_people(tmp_path: Path) -> None:
    answer = cxr("classify", pictures.SAMPLE)
    assert answer.returncode == 0
    assert answer.stdout.decode().endswith("pneumonia-1.jpeg: pneumonia, P(pneumonia) 0.98\n")
    answer = cxr("classify", tmp_path / "none.jpeg")
    assert (answer.returncode, answer.stdout) == (2, b"")
    assert answer.stderr.decode().strip().endswith("there is no such file")


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_MAX_BYTES", "much")
    answer = cxr("classify", pictures.SAMPLE)
    assert answer.returncode == 2
    assert answer.stderr.startswith(b"cxr: CXR_MAX_BYTES: ")
    assert b"Traceback" not in answer.stderr


def test_a_list_that_an_ec2_host_needs_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_HOST", "ec2")
    with pytest.raises(UsageError, match="CXR_SUBNETS"):
        load_settings(bucket="b")
    monkeypatch.setenv("CXR_SUBNETS", "subnet-1, subnet-2")
    with pytest.raises(UsageError, match="CXR_INSTANCE_TYPES"):
        load_settings(bucket="b")
    monkeypatch.setenv("CXR_INSTANCE_TYPES", "t3.micro")
    assert load_settings(bucket="b").subnets == ("subnet-1", "subnet-2")


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.jpeg"
    with path.open("wb") as file:
        file.truncate(300_000_000)
    answer = cxr("classify", "--json", path)
    verdict = Verdict.from_json(answer.stdout)
    assert verdict.reason is not None
    assert (verdict.reason.code, verdict.source.size) == ("too_large", 300_000_000)


def test_the_worklist_is_made_again_from_the_outbox(root: Path) -> None:
    cxr("replay", EVENTS / "s3_many.json", "--root", root)
    for path in (root / ".cxr").glob("index.sqlite*"):
        path.unlink()
    answer = cxr("index", "rebuild", "--root", root)
    assert (answer.returncode, answer.stdout) == (0, b"8 verdicts in the worklist\n")


def test_reconcile_judges_what_has_no_verdict(root: Path) -> None:
    cxr("replay", EVENTS / "s3_put.json", "--root", root)
    (root / "inbox/scan.jpeg.part").write_bytes(pictures.SAMPLE.read_bytes()[:1000])
    answer = process("reconcile", "--root", root)
    lines = answer.stdout.decode().splitlines()
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert lines[-1] == f"{len(lines) - 1} judged"
    assert len(list((root / "outbox").rglob("*.json"))) == sum(path.is_file() for path in SAMPLES.rglob("*"))
    assert cxr("reconcile", "--root", root).stdout == b"0 judged\n"


def test_help_names_every_command() -> None:
    text = process("--help").stdout.decode()
    commands = ("up", "replay", "classify", "explore", "train", "evaluate", "export", "index")
    for command in (*commands, "deploy", "status", "destroy"):
        assert f" {command} " in text


def test_help_shows_the_defaults() -> None:
    """Rich takes text in square brackets for markup and drops it."""
    text = cxr("up", "--help").stdout.decode()
    assert "8000" in text
    assert "CXR_ROOT" in text


def test_help_imports_only_what_it_needs() -> None:
    """Every command starts with these imports, so they must be quick."""
    code = (
        "import atexit, sys, cxr; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); cxr.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert {"typer", "cxr.commands"} <= modules
    assert not {"numpy", "PIL", "pydantic", "pydantic_settings", "filelock", *ONLY} & modules
    ours = {name for name in modules if name.partition(".")[0] in OURS}
    light = {
        "pipeline.errors",
        "pipeline.names",
        "pipeline.running",
        "pipeline.running.logs",
        "model.serve",
        "model.serve.process",
    }
    assert ours == {"pipeline", "model", *light}


def test_every_verdict_fits_its_schema(root: Path) -> None:
    """The schema in the documentation is the one in the code."""
    from pipeline.verdict import json_schema

    cxr("replay", EVENTS / "s3_put.json", "--root", root)
    written = json.loads((SAMPLES.parents[1] / "docs/verdict.schema.json").read_text())
    assert written == json_schema()
    verdict = json.loads((root / "outbox/pneumonia-1.jpeg.json").read_bytes())
    assert set(written["required"]) <= set(verdict) <= set(written["properties"])
    assert time.strptime(verdict["finished_at"][:19], "%Y-%m-%dT%H:%M:%S")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["up", "--root", "FILE"], "name another --root"),
        (["up", "--port", "99999"], "65535"),
        (["up", "--host", "0.0.0.0"], "set CXR_USERS=FILE"),
        (["up", "--bucket", "b", "--host", "::"], "set CXR_USERS=FILE"),
        (["replay", "FILE", "--root", "ROOT"], "is not a JSON event"),
        (["classify", "--weights", "FILE", "FILE"], "no network of this release"),
        (["train", "ROOT"], "NORMAL"),
        (["evaluate", "ROOT"], "NORMAL"),
        (["evaluate", "ROOT", "--out", "FILE"], "name another --out"),
        (["explore", "ROOT", "--out", "ROOT"], "NORMAL"),
        (["explore", "ROOT", "--out", "FILE"], "name another --out"),
        (["export", "ROOT", "ROOT"], "cxr train"),
    ],
)
def test_wrong_use_is_said_without_a_trace(arguments: list[str], reason: str, tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text("[" * 100_000)
    (tmp_path / "ROOT").mkdir()
    places = [str(tmp_path / word) if word in ("FILE", "ROOT") else word for word in arguments]
    answer = cxr(*places)
    assert answer.returncode == 2
    assert reason in answer.stderr.decode()
    assert b"Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("words", "bucket", "file", "starts"),
    [
        ("up", "", "", True),
        ("classify x.png", "", "log_level = 'INFO'", True),
        ("up --bucket xrays", "", "", False),
        ("up --bucket=xrays", "", "", False),
        ("up", "xrays", "", False),
        ("up", "", "bucket = 'xrays'", False),
        ("worker --check", "", "", False),
        ("deploy", "", "", False),
    ],
)
def test_the_network_is_loaded_ahead_only_where_it_judges(
    words: str, bucket: str, file: str, starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of a bucket must not load ONNX Runtime."""
    started: list[str] = []
    monkeypatch.setattr("model.serve.process.start_ahead", lambda: started.append(words))
    monkeypatch.setattr("cxr.commands.run_command_line", lambda: None)
    monkeypatch.setattr(sys, "argv", ["cxr", *words.split()])
    monkeypatch.setenv("CXR_BUCKET", bucket)
    monkeypatch.setenv("CXR_CONFIG", str(tmp_path / "cxr.toml"))
    if file:
        (tmp_path / "cxr.toml").write_text(file)
    import_module("cxr").main()
    assert bool(started) is starts
