"""Building a release from a checkout; pip and make, which take minutes, are played."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ec2_runner.stack import release
from ec2_runner.stack.release import (
    MANIFEST,
    Architecture,
    architecture_of,
    build,
    pack,
    run_command,
    write_manifest,
)
from pipeline.errors import StackError, UsageError
from tests.support.aws import ROOT
from tests.support.hosts import SCRIPTS


class Tools:
    """Play pip and make."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str], folder: Path) -> None:
        self.commands.append(list(command))
        wheelhouse = folder / "build/release/wheelhouse"
        if "wheel" in command:
            (wheelhouse / "cxr_inbox-0.1.0-py3-none-any.whl").write_text("ours")
        elif "download" in command:
            (wheelhouse / "numpy-2-cp312.whl").write_text("theirs")
        else:
            (folder / "build/lambda/handlers").mkdir(parents=True, exist_ok=True)
            (folder / "build/lambda/handlers/ingest.py").write_text("pass")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "ec2_runner/host/machine"
    folder.mkdir(parents=True)
    for path in SCRIPTS.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "build/lib").mkdir(parents=True)
    return tmp_path


def test_a_release_has_wheels_scripts_and_a_manifest_of_both(root: Path) -> None:
    tools = Tools()
    made = build(root, "arm64", "x86_64", tools)
    named = dict(reversed(line.split("  ")) for line in (made.folder / MANIFEST).read_text().splitlines())
    scripts = {f"host/{path.name}" for path in SCRIPTS.iterdir()}
    assert set(named) == {
        "wheelhouse/cxr_inbox-0.1.0-py3-none-any.whl",
        "wheelhouse/numpy-2-cp312.whl",
        *scripts,
    }
    for name, digest in named.items():
        assert hashlib.sha256((made.folder / name).read_bytes()).hexdigest() == digest
    assert not (root / "build/lib").exists()
    download = next(command for command in tools.commands if "download" in command)
    assert download[-1].endswith(".whl[aws]")
    assert {"--python-version=3.12", "--only-binary=:all:", "constraints.txt"} <= set(download)
    platforms = [word for word in download if word.startswith("--platform=")]
    assert "--platform=manylinux2014_aarch64" in platforms
    assert all(word.endswith("aarch64") for word in platforms)


@pytest.mark.parametrize(
    ("functions", "platform"), [("x86_64", "manylinux2014_x86_64"), ("arm64", "manylinux2014_aarch64")]
)
def test_the_functions_package_is_made_for_their_platform(
    root: Path, functions: Architecture, platform: str
) -> None:
    tools = Tools()
    build(root, "x86_64", functions, tools)
    (make,) = [command for command in tools.commands if command[0] == "make"]
    assert f"LAMBDA_PLATFORM={platform}" in make
    # What our Makefile does with that, where the package of the other platform lies.
    other = {"manylinux2014_x86_64", "manylinux2014_aarch64"} - {platform}
    folder = root / "package"
    (root / f"package.3.13-{other.pop()}").touch()
    dry = [*make, "--dry-run", f"LAMBDA={folder}", "--old-file=.venv/runtime"]
    done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert f"--platform {platform} " in done.stdout
    assert f"rm -rf {folder} {folder}.*" in done.stdout


def test_the_same_sources_give_the_same_release(root: Path) -> None:
    first = build(root, "x86_64", "x86_64", Tools())
    contents = (first.folder / MANIFEST).read_bytes(), first.package.read_bytes()
    second = build(root, "x86_64", "x86_64", Tools())
    assert ((second.folder / MANIFEST).read_bytes(), second.package.read_bytes()) == contents


def test_a_package_without_its_folder_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="make lambda"):
        pack(tmp_path / "none", tmp_path / "x.zip")


def test_a_tool_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"could not be built.*no such thing"):
        run_command([sys.executable, "-c", "import sys; sys.exit('no such thing')"], tmp_path)
    with pytest.raises(StackError, match="cxr-no-such-tool is not installed"):
        run_command(["cxr-no-such-tool"], tmp_path)


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("t3.medium", "x86_64"), ("t3a.large", "x86_64"), ("c7g.large", "arm64"), ("t4g.small", "arm64"),
     ("g5.xlarge", "x86_64"), ("c7gn.large", "arm64")],
)  # fmt: skip
def test_the_architecture_follows_from_the_instance_type(kind: str, architecture: str) -> None:
    assert architecture_of(kind) == architecture


def test_an_installed_copy_cannot_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "__file__", str(tmp_path / "site-packages/ec2_runner/stack/release.py"))
    with pytest.raises(UsageError, match="in a checkout"):
        release.source_tree()


def test_the_manifest_is_what_a_host_checks(tmp_path: Path) -> None:
    """Every host would refuse a release with names that update.sh does not accept."""
    for name in ("wheelhouse/a_b-1.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl", "host/install.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path)
    pattern = (SCRIPTS / "update.sh").read_text().split("=~ ^(wheelhouse|host)/")[1].split("+$")[0]
    assert pattern == "[A-Za-z0-9_.+-]"
