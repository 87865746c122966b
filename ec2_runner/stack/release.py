"""Build a release from the source tree: the wheels that a host installs, its scripts, the Lambda package."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import StackError, UsageError
from pipeline.verdict import RELEASE

Architecture = Literal["x86_64", "arm64"]
ARCHITECTURES: tuple[Architecture, ...] = ("x86_64", "arm64")
_Run = Callable[[Sequence[str], Path], None]  # runs a command in a folder; raises StackError when it fails

MANIFEST = "manifest.sha256"
_PYTHON = "3.12"  # version on the hosts
_GLIBC = 34  # minor version in Amazon Linux 2023: 2.34
_MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
_EPOCH = 315_532_800  # 1980, the oldest time in a zip; so equal sources give equal files
_STAMP = (1980, 1, 1, 0, 0, 0)
_MINUTES = 15.0


@dataclass(frozen=True)
class Bundle:
    """Describe a release on this disk; `folder` has `wheelhouse/`, `host/` and the manifest of both."""

    number: int
    folder: Path
    package: Path  # zip of the Lambda functions
    template: Path

    @property
    def name(self) -> str:
        """Return its number and the hash of its manifest, which stands for all that a host installs."""
        return f"{self.number}-{sha256_of(self.folder / MANIFEST)}"


def source_tree() -> Path:
    """Return the checkout that this code runs from; raise UsageError when it is an installed copy."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists() or not (root / "template.yaml").exists():
        raise UsageError("`cxr deploy` builds from the sources: run it in a checkout, after `make run` there")
    return root


def architecture_of(instance_type: str) -> Architecture:
    """Return the architecture of an instance type; a `g` after the generation (`c7g.large`) is Graviton."""
    return "arm64" if re.match(r"[a-z]+\d+g", instance_type) else "x86_64"


def run_command(command: Sequence[str], folder: Path) -> None:
    """Run a command to its end; raise StackError, with the end of its output, when it fails."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(_EPOCH)}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_MINUTES * 60,
            check=False,
        )
    except FileNotFoundError as error:
        raise StackError(f"{command[0]} is not installed, and the release needs it") from error
    except subprocess.TimeoutExpired as error:
        raise StackError(f"{command[0]} did not end within {_MINUTES:.0f} minutes; try again") from error
    if done.returncode:
        last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise StackError(f"the release could not be built: `{' '.join(command[:4])} ...` failed: {last}")


def build(root: Path, hosts: Architecture, functions: Architecture, run: _Run = run_command) -> Bundle:
    """Build the release of a checkout, in its `build/`, for the architectures of the hosts and functions."""
    folder = root / "build" / "release"
    for stale in (folder, root / "build" / "lib"):  # setuptools would pack deleted modules
        shutil.rmtree(stale, ignore_errors=True)
    wheelhouse = folder / "wheelhouse"
    wheelhouse.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheelhouse), "."], root)
    (wheel,) = wheelhouse.glob("*.whl")
    run([*pip, *_download(f"{wheel}[aws]", wheelhouse, hosts)], root)
    shutil.copytree(root / "ec2_runner" / "host" / "machine", folder / "host")
    platform = f"LAMBDA_PLATFORM=manylinux2014_{_MACHINES[functions]}"
    run(["make", "--no-print-directory", "lambda", platform], root)
    package = pack(root / "build" / "lambda", folder / "lambda.zip")
    write_manifest(folder)
    return Bundle(RELEASE, folder, package, root / "template.yaml")


def pack(functions: Path, target: Path) -> Path:
    """Zip a folder; the same content gives the same bytes."""
    if not functions.is_dir():
        raise StackError("build/lambda is missing: run `make lambda`, and read its output")
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(functions.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                info = zipfile.ZipInfo(path.relative_to(functions).as_posix(), _STAMP)
                info.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
                archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


def write_manifest(folder: Path) -> None:
    """Write the SHA-256 of every file that a host installs, in the format of `sha256sum`."""
    files = sorted([*(folder / "wheelhouse").iterdir(), *(folder / "host").iterdir()])
    lines = (f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(requirement: str, wheelhouse: Path, architecture: Architecture) -> list[str]:
    """Return pip's arguments for downloading the wheels of the hosts' platform.

    pip takes a tag literally, so the tags of older glibc versions are named too. It evaluates markers for the
    Python that runs it: should that leave a package out, the host refuses the release and says so.
    """
    machine = _MACHINES[architecture]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC, 16, -1)]
    platforms = [f"--platform={tag}" for tag in (*tags, f"manylinux2014_{machine}", f"linux_{machine}")]
    return [
        *("download", "--dest", str(wheelhouse), "--constraint", "constraints.txt"),
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={_PYTHON}"),
        *platforms,
        requirement,
    ]
