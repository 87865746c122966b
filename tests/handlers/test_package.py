"""The Lambda package: small, without the network's libraries, and quick to start."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.aws import ROOT

LIMIT = 90_000_000  # bytes unzipped; AWS takes 250
FORBIDDEN = {"PIL", "flask", "model", "numpy", "onnxruntime", "pydicom", "torch", "web"}
# Starts a function as its first event does; prints what was imported: the libraries, and ours.
START = """
import handlers.dead_letter, handlers.ingest, handlers.reap, handlers.reconcile, handlers.record
from handlers import telemetry, wiring
from pipeline.errors import HostNotReady
try:
    wiring.ports().host.run([])
except HostNotReady:  # nobody may read the lease here
    pass
wiring.reaper(), telemetry.logger()
names = [name for name, module in list(sys.modules.items()) if (getattr(module, "__file__", None) or "")
    .startswith(sys.path[0])]
print(json.dumps(names))
"""

FOLDER = Path("build", "lambda-here")
MAKE = [
    *("make", "--assume-old=.venv/runtime", "lambda"),
    f"BIN={Path(sys.executable).parent}",
    f"LAMBDA={FOLDER}",
    f"LAMBDA_PYTHON={sys.version_info.major}.{sys.version_info.minor}",
    *([f"LAMBDA_PLATFORM=manylinux2014_{platform.machine()}"] if sys.platform == "linux" else []),
]


@pytest.fixture(scope="module")
def package() -> Path:
    """Build the package for this machine and its Python."""
    subprocess.run(MAKE, cwd=ROOT, check=True, timeout=100)
    return ROOT / FOLDER


def run(package: Path, code: str) -> str:
    """Return the output of a Python that sees only the package."""
    start = f"import json, sys\nsys.path.insert(0, {str(package)!r})\n"
    environment = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "CXR_BUCKET": "b",
        "CXR_HOST": "ec2",
        "CXR_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/cxr-inbox-jobs",
        "CXR_SUBNETS": "subnet-1",
        "CXR_INSTANCE_TYPES": "t3.medium",
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-S", "-s", "-P", "-c", start + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_small_and_has_nothing_of_the_network(package: Path) -> None:
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert 40_000_000 < sum(path.stat().st_size for path in files) < LIMIT
    tops = {path.relative_to(package).parts[0].removesuffix(".py") for path in files}
    assert {"boto3", "paramiko", "ec2_runner", "handlers", "pipeline"} <= tops
    assert not FORBIDDEN & tops


def test_it_is_complete_and_starts_without_what_serves_elsewhere(package: Path) -> None:
    """`bench.cold` measures how long a start takes."""
    tops = {name.split(".")[0] for name in json.loads(run(package, START))}
    assert {"botocore", "handlers", "paramiko", "pipeline", "pydantic"} <= tops
    assert not (FORBIDDEN | {"jinja2", "typer", "waitress", "watchdog"}) & tops


def test_making_it_again_changes_what_changed(package: Path) -> None:
    libraries, stale = (package / "boto3").stat().st_mtime_ns, package / "pipeline" / "stale.py"
    stale.write_text("")
    subprocess.run(MAKE, cwd=ROOT, check=True, timeout=30)
    assert (package / "boto3").stat().st_mtime_ns == libraries
    assert not stale.exists()
