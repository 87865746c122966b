"""The systemd units of the inference host, checked by systemd itself."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.hosts import SCRIPTS


@pytest.mark.whole
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_units_are_taken_by_systemd_and_the_worker_is_confined(tmp_path: Path) -> None:
    for path in [*SCRIPTS.glob("*.service"), *SCRIPTS.glob("*.timer")]:
        (tmp_path / path.name).write_text(re.sub(r"/opt/cxr/\S+", "/bin/true", path.read_text()))
    units = [str(path) for path in tmp_path.iterdir()]
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    answer = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, env=environment, check=False
    )
    complaints = [line for line in answer.stderr.splitlines() if "cxr-" in line]
    assert complaints == []
    unit = tmp_path / "cxr-worker.service"
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-200:]
