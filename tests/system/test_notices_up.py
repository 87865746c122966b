"""`cxr up` sends notices, also when it is killed between sending and noting that."""

import signal
from pathlib import Path

import pytest

from tests.support.fakes import SAMPLES
from tests.support.machines import wait_for
from tests.support.receiver import SECRET, receiving
from tests.system.test_up import Up

pytestmark = pytest.mark.whole


def test_a_kill_before_the_answer_repeats_the_notice_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inbox").mkdir()
    with receiving(0, 204) as receiver:
        table = f'{{"name": "ris", "to": "{receiver.url}", "secret": "{SECRET}", "labels": ["pneumonia"]}}'
        monkeypatch.setenv("CXR_NOTIFY", f"[{table}]")
        monkeypatch.setenv("CXR_LOG_LEVEL", "DEBUG")
        first = Up(tmp_path)
        for name, sample in (("Zaphod.jpeg", "pneumonia-1.jpeg"), ("other.jpeg", "normal-1.jpeg")):
            (tmp_path / "inbox" / name).write_bytes((SAMPLES / sample).read_bytes())
        wait_for(lambda: receiver.bodies, 60)  # it has the notice, and does not answer
        said = first.end(signal.SIGKILL)
        second = Up(tmp_path)
        wait_for(lambda: len(receiver.bodies) == 2, 60)
        said += second.end()
        third = Up(tmp_path)
        said += third.end()
    assert len(receiver.bodies) == 2
    assert receiver.are_genuine
    assert len(set(receiver.ids)) == 1
    [one, two] = receiver.notices
    assert one == two
    assert one["data"]["label"] == "pneumonia"
    assert "Zaphod" not in said + str(receiver.notices) + str(receiver.headers)
    assert "whsec_" not in said
