"""Wrong commands: none ends in a traceback or creates anything, and each says how to correct it."""

import builtins
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cxr
from cxr import deployment
from pipeline.errors import UsageError
from pipeline.running.alone import alone
from pipeline.settings import Settings, load_settings
from pipeline.verdict import RELEASE, VERSION
from tests.support import pictures

Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Return the exit code and last words of a command."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cxr", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cxr.main()
        answer = capsys.readouterr()
        assert "Traceback" not in answer.err
        return int(end.value.code or 0), answer.err.strip() or answer.out.strip()

    return run


NO_FOLDER = [
    ["reconcile", "--root"],
    ["forget", "a.jpeg", "--yes", "--root"],
    ["index", "rebuild", "--root"],
    ["train"],
    ["evaluate"],
    ["explore", "--out", "OUT"],
    ["export", "."],
    ["backfill", "OUT"],
    ["password"],
]


@pytest.mark.parametrize("words", NO_FOLDER, ids=lambda words: words[0])
def test_a_folder_that_is_not_there_is_wrong_usage_and_is_not_made(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = tmp_path / "typo" / "users" if words == ["password"] else tmp_path / "typo"
    places = [str(missing)] if words != ["backfill", "OUT"] else [str(missing), str(tmp_path / "OUT")]
    command = ["backfill"] if words == ["backfill", "OUT"] else words
    code, line = said(*command, *places)
    assert code == 2
    assert "typo" in line
    assert "\n" not in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", NO_FOLDER[:3], ids=lambda words: words[0])
def test_a_folder_without_an_inbox_is_no_root(words: list[str], tmp_path: Path, said: Said) -> None:
    code, line = said(*words, tmp_path)
    assert (code, "no inbox/" in line) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.whole
def test_a_worker_makes_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    monkeypatch.setenv("CXR_ROOT", str(tmp_path / "typo"))
    assert said("worker")[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("CXR_ROOTT", "CXR_ROOT"),
        ("CXR_USER", "CXR_USERS"),
        ("cxr_max_byte", "CXR_MAX_BYTES"),
    ],
)
def test_a_setting_that_is_none_is_an_error_that_names_the_nearest(
    name: str, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(UsageError, match=f"{name} is not a setting: did you mean {near}?"):
        load_settings()


def test_a_setting_like_no_other_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_ZZZZ", "x")
    with pytest.raises(UsageError, match="CXR_ZZZZ is not a setting"):
        load_settings()


def test_every_variable_of_our_own_parts_is_a_setting() -> None:
    """Check the variables of the template's functions and of the host's scripts."""
    root = Path(cxr.__file__).parents[1]
    files = [root / "template.yaml", *root.glob("ec2_runner/host/machine/*")]
    texts = [path.read_text() for path in files]
    used = {name for text in texts for name in re.findall(r"CXR_[A-Z_]*[A-Z]", text)}
    known = {f"CXR_{name.upper()}" for name in Settings.model_fields}
    earlier = {"CXR_STORE", "CXR_INDEX"}  # install.sh removes them
    assert used - known == {"CXR_PREFIX", "CXR_PYTHON", "CXR_PAUSE", "CXR_ACCOUNT"} | earlier


MISSING = {
    "boto3": (["status"], "cxr-inbox[aws]"),
    "botocore": (["deploy", "--yes"], "cxr-inbox[aws]"),
    "torch": (["train", "."], "cxr-inbox[train]"),
    "matplotlib": (["explore", ".", "--out", "out"], "cxr-inbox[train]"),
}


@pytest.mark.parametrize("library", MISSING)
def test_a_part_that_is_not_installed_is_named(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    importing = builtins.__import__

    def refuse(name: str, *rest: Any) -> ModuleType:
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=name)
        return importing(name, *rest)

    ours = ("ec2_runner", "model", "handlers")
    for module in [name for name in sys.modules if name.startswith((library, *ours))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.chdir(tmp_path)
    words, advice = MISSING[library]
    code, line = said(*words)
    assert code == 2
    assert advice in line


def test_what_nobody_expected_is_one_line(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    def fail(stack: str | None, region: str | None) -> Settings:
        raise RuntimeError("John Doe.jpeg")

    monkeypatch.setattr(deployment, "begin", fail)
    code, line = said("status")
    assert code == 1
    assert line.startswith("cxr: unexpected error: RuntimeError at test_typos.py:")
    assert "--verbose" in line
    assert "Doe" not in line


def test_ctrl_c_ends_a_command_without_a_trace(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    def interrupt(stack: str | None, region: str | None) -> Settings:
        raise KeyboardInterrupt

    monkeypatch.setattr(deployment, "begin", interrupt)
    assert said("status")[0] == 130


def test_the_version_is_told(said: Said) -> None:
    assert said("--version") == (0, f"cxr {VERSION}, release {RELEASE}")


@pytest.mark.whole
def test_a_second_up_on_one_root_says_that_one_runs(tmp_path: Path, said: Said) -> None:
    with alone(tmp_path / ".cxr/up.lock", "`cxr up`") as tell:
        assert (
            f"is already running on this folder, starting, process {os.getpid()}"
            in said("up", "--root", tmp_path, "--port", "0")[1]
        )
        tell("at http://127.0.0.1:8000")
        code, line = said("up", "--root", tmp_path, "--port", "0")
    assert code == 2
    assert f"is already running on this folder, at http://127.0.0.1:8000, process {os.getpid()}" in line
    with alone(tmp_path / ".cxr/up.lock", "`cxr up`"):
        pass
    assert [path.name for path in (tmp_path / ".cxr").glob("*.running")] == []


@pytest.mark.whole
def test_a_killed_up_is_no_obstacle(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from pipeline.running.alone import alone\n"
        f"with alone(Path({str(tmp_path / 'up.lock')!r}), 'it'): os.abort()"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=False, cwd=Path(cxr.__file__).parents[1])
    assert (tmp_path / "up.running").exists()
    with alone(tmp_path / "up.lock", "it"):
        pass


@pytest.mark.whole
def test_a_reader_who_leaves_and_a_terminal_without_letters_end_nothing(tmp_path: Path) -> None:
    path = tmp_path / "胸部.jpeg"
    path.write_bytes(pictures.SAMPLE.read_bytes())
    command = f'"{sys.executable}" -m cxr classify "{path}"'
    version = f"{sys.executable} -m cxr --version"
    western = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    for line, expected in (
        (f"{command}", "\\u80f8\\u90e8.jpeg: "),
        (f"{version} | true", ""),
        (f"{version} >&-", ""),
    ):
        done = subprocess.run(
            ["bash", "-c", line], env=western, capture_output=True, text=True, timeout=60, check=False
        )
        assert expected in done.stdout
        assert done.stderr == ""
