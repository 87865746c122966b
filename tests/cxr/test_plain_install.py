"""The page runs where only the libraries of a plain install are: no extra is needed."""

import os
import re
import signal
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest

from tests.support.fakes import SAMPLES
from tests.support.machines import Process, wait_for

pytestmark = pytest.mark.whole
# Modules are made unavailable before the program begins, in its judging processes, too.
_BLOCKING = "import os, sys\nsys.modules.update(dict.fromkeys(os.environ['MISSING'].split()))\n"


def plain() -> set[str]:
    """Return the distributions that `pip install .` brings, from their own lists of what they need."""
    found, waiting = set[str](), ["cxr-inbox"]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another system, or an older Python
        found.add(name)
        waiting += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed if "extra ==" not in line]
    return found


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which no other library can be imported."""
    folder, has = tmp_path_factory.mktemp("site"), plain()
    assert {"flask", "onnxruntime", "pydicom"} & has >= {"flask", "onnxruntime"}
    others = [
        module
        for module, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & has
    ]
    assert {"boto3", "botocore", "torch", "moto"} <= set(others)
    (folder / "sitecustomize.py").write_text(_BLOCKING)
    return {**os.environ, "PYTHONPATH": str(folder), "MISSING": " ".join(others)}


def test_up_judges_what_is_dropped(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/a.jpeg").write_bytes((SAMPLES / "normal-1.jpeg").read_bytes())
    command = [sys.executable, "-m", "cxr", "up", "--root", str(tmp_path), "--port", "0"]
    process = Process(command, tmp_path / "log", env)
    try:
        done = tmp_path / "outbox/a.jpeg.json"
        wait_for(lambda: done.exists() or process.exit_code() is not None, 60)
        assert process.exit_code() is None, process.output()
    finally:
        process.kill(signal.SIGTERM)
