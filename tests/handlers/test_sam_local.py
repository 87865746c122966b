"""`sam local invoke` in a container, with every event in `events/`."""

import subprocess
import sys

import pytest

from tests.support.aws import ROOT


@pytest.mark.timeout(1500)
def test_every_event_runs_in_lambdas_container() -> None:
    command = [sys.executable, "events/smoke.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1400, check=False)
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout.strip().removeprefix("skipped: "))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == len(list(ROOT.glob("events/*.json")))
