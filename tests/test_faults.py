"""Faults under a running `cxr up`: a short form of `make faults`."""

from pathlib import Path

import pytest

from bench import faults

pytestmark = pytest.mark.timeout(300)


def test_whatever_happens_each_x_ray_gets_its_verdict_without_a_restart(tmp_path: Path) -> None:
    seen = faults.measure(2, tmp_path, 8)
    assert {one.fault: one.wrong for one in seen} == {one.fault: 0 for one in seen}
    assert len(seen) >= len(faults.FAULTS) - 1  # a full disk takes root's rights
    assert next(one for one in seen if one.fault == "failing_watcher").said
