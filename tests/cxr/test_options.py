"""The start of a command: settings from three sources, and a log of the level that they set."""

import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from cxr import deployment
from cxr.commands import app
from cxr.options import begin, begin_with_store
from handlers import telemetry
from pipeline.running import logs

ROOT = Path(__file__).parents[2]
# Each command, so called that it ends soon after it has begun.
COMMANDS = {
    "up": ["--host", "0.0.0.0"],
    "worker": ["--check"],
    "classify": ["none.jpeg"],
    "evaluate": [],
    "calibrate": [".", "--out", "x.onnx"],
    "backfill": ["none", "out"],
    "replay": ["event.json", "--root", "r"],
    "forget": ["x", "--root", "none"],
    "export-dicom": ["x.dcm", "--root", "none"],
    "reconcile": ["--root", "none"],
    "index rebuild": ["--root", "none"],
    "password": [],
    "deploy": [],
    "status": [],
    "destroy": [],
}
WITHOUT_SETTINGS = {"train", "export", "explore"}  # they say all on standard output


def commands() -> dict[str, Any]:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    index = root.commands["index"]
    assert isinstance(index, TyperGroup)
    return {**root.commands, **{f"index {name}": command for name, command in index.commands.items()}}


def test_every_help_text_is_made_of_sentences() -> None:
    for name, command in commands().items():
        texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
        assert len(texts) > 1 or name == "index"
        for text in texts:
            assert text, f"{name} has a parameter without help"
            assert text[0].isupper(), f"{name}: {text}"
            assert text.rstrip().endswith("."), f"{name}: {text}"


def levels() -> set[int]:
    return {logging.getLogger(name).level for name in logs.OURS}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CXR_CONFIG")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):  # a command sets them; this restores them afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    (tmp_path / "event.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_the_log_level_acts_in_every_command(command: str, here: Path) -> None:
    (here / "cxr.toml").write_text('log_level = "ERROR"\n[judging]\nthreads = 1\n')
    CliRunner().invoke(app, [*command.split(), *COMMANDS[command]], input="")
    assert levels() == {logging.ERROR}
    assert not any(logging.getLogger(name).propagate for name in logs.OURS)


def test_no_command_is_forgotten() -> None:
    named = {command.name for command in app.registered_commands}
    assert named | {"index rebuild"} == set(COMMANDS) | WITHOUT_SETTINGS


def test_the_log_level_acts_in_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_LOG_LEVEL", "ERROR")
    monkeypatch.setattr(telemetry, "_logger", None)
    telemetry.logger()
    assert levels() == {logging.ERROR}


@pytest.mark.whole
@pytest.mark.parametrize(("level", "is_said"), [("ERROR", False), ("WARNING", True), ("INFO", True)])
def test_what_a_worker_writes(level: str, is_said: bool, here: Path) -> None:
    """A warning of the host's agent reaches standard error as one line, or not at all."""
    code = (
        "import logging, sys; from cxr import options; options.begin()\n"
        "logging.getLogger('ec2_runner.host.agent').warning('the host could not publish its state')\n"
        "logging.getLogger('another').info('not ours')"
    )
    env = {"CXR_LOG_LEVEL": level, "PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=here,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (
        done.stderr.endswith(" WARNING ec2_runner.host.agent: the host could not publish its state\n")
        == is_said
    )
    assert done.stderr.count("\n") == is_said


def test_a_folder_on_the_command_line_comes_before_a_bucket_of_the_file(here: Path) -> None:
    (here / "cxr.toml").write_text('bucket = "xrays"\n')
    assert begin_with_store(None, None).bucket == "xrays"
    assert begin_with_store(here, None).bucket is None
    assert begin_with_store(here, "another").bucket == "another"


def test_the_region_of_the_file_is_that_of_all_clients(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from handlers import wiring

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (here / "cxr.toml").write_text('[stack]\nregion = "eu-north-1"\n')
    begin_with_store(None, None)
    assert wiring.aws().client("sqs").meta.region_name == "eu-north-1"


def test_the_region_of_the_file_comes_before_both_variables(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from handlers import wiring

    monkeypatch.setenv("AWS_REGION", "us-west-2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert wiring.aws().region == "us-west-2"  # as Lambda and AWS's other libraries have it
    wiring.aws.cache_clear()
    (here / "cxr.toml").write_text('[stack]\nregion = "eu-north-1"\n')
    begin_with_store(None, None)
    assert wiring.aws().region == "eu-north-1"
    assert wiring.aws().client("sqs").meta.region_name == "eu-north-1"


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "us-west-2"}, "us-west-2"),
        ({"AWS_DEFAULT_REGION": "us-east-1"}, "us-east-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "us-east-1"}, "us-east-1"),
    ],
)
def test_either_variable_of_aws_names_the_region(
    variables: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.aws.clients import Aws

    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Aws().region == region


def test_a_deploy_is_repeated_from_the_file(here: Path) -> None:
    (here / "cxr.toml").write_text(
        'bucket = "xrays"\n[stack]\nstack = "ward"\nregion = "eu-north-1"\ninstance_type = "c7g.large"\n'
        'email = "a@b.example"\nidle_minutes = 5\nretention_days = 0\n'
        'parameters = { Ami = "ami-1", PreviewDays = 3 }\n'
    )
    settings = begin()
    options = deployment._options(settings, None, None, {"Ami": "ami-2"})
    assert (options.stack, settings.region, options.bucket, options.existing_bucket) == (
        "ward",
        "eu-north-1",
        "xrays",
        None,
    )
    assert (options.instance_type, options.email) == ("c7g.large", "a@b.example")
    assert (options.idle_minutes, options.retention_days) == (5, 0)
    assert options.more == {"Ami": "ami-2", "PreviewDays": "3"}
    options = deployment._options(settings, None, "there", {})
    assert (options.bucket, options.existing_bucket) == (None, "there")
    settings = settings.model_copy(update={"create_bucket": False})
    assert deployment._options(settings, None, None, {}).existing_bucket == "xrays"


def test_a_deploy_without_settings_leaves_a_stack_as_it_is(here: Path) -> None:
    options = deployment._options(begin(), None, None, {})
    assert (options.stack, options.bucket, options.existing_bucket) == ("cxr-inbox", None, None)
    assert (options.instance_type, options.email, options.idle_minutes, options.retention_days) == (None,) * 4


def test_every_option_of_deploy_is_a_setting_too() -> None:
    from pipeline.settings import SECTIONS

    options = set(inspect.signature(deployment.deploy_command).parameters) - {
        "yes",
        "dry_run",
        "parameter",
        "existing_bucket",
        "new_image",  # once, not each time
    }
    assert options <= {*SECTIONS["stack"].model_fields, "bucket"}
