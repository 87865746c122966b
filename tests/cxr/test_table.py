"""The table that `cxr classify` prints on a terminal."""

import io
import json
import os
import pty
import shutil
import sys
from contextlib import chdir, suppress
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from cxr.progress import tabulate
from pipeline.classify import count_inputs, verdicts
from pipeline.verdict import Release
from tests.support import pictures
from tests.support.fakes import LIMIT, FakeEngine

NAMES = ["plain", "\x1b[31mred\r\n", "[bold]x", "胸部" * 12, "חזה 12", "صدر", "e\u0301" * 30, "a\u202eb"]


@pytest.mark.parametrize("width", [8, 30, 63, 64, 80, 200])
def test_no_name_breaks_the_table(tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        (tmp_path / name).write_bytes(b"P1")
    (tmp_path / "bad").write_bytes(b"bad")
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None)
    monkeypatch.chdir(tmp_path)
    names = ["."]
    statuses = tabulate(
        verdicts(names, FakeEngine(), Release(), LIMIT, 1), lambda: count_inputs(names), console
    )
    assert statuses == {"classified": len(NAMES), "rejected": 1}
    *rows, totals = out.getvalue().rstrip().split("\n")
    assert all(cell_len(row) <= width for row in rows)
    assert not set("\x1b\r\u202e") & set(out.getvalue())
    assert totals.startswith("9 X-rays in ")
    assert totals.endswith(": 8 pneumonia, 1 rejected")
    if width == 200:  # where no name is folded
        assert all(name in out.getvalue() for name in ("\\x1b[31mred\\r\\n", "[bold]x", "a\\u202eb"))


def test_a_sample_has_one_row_and_a_refusal_says_what_to_do_below_it(tmp_path: Path) -> None:
    place = tmp_path / "events" / "samples"
    place.mkdir(parents=True)
    for name, data in (("photograph-1.png", b"bad"), ("pneumonia-1.jpeg", b"P1 age_outside_training")):
        (place / name).write_bytes(data)
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=False, color_system=None)
    with chdir(tmp_path):
        names = ["events/samples"]
        tabulate(verdicts(names, FakeEngine(), Release(), LIMIT, 1), lambda: count_inputs(names), console)
    _, refused, said, found, *_ = out.getvalue().splitlines()
    assert refused.split() == ["events/samples/photograph-1.png", "rejected", "unreadable"]
    assert said.strip() == "It is damaged. Export it again."
    assert "events/samples/pneumonia-1.jpeg" in found
    assert "age outside training" in found


@pytest.mark.whole
def test_a_terminal_gets_a_table_and_json_stays_json(tmp_path: Path) -> None:
    shutil.copy(pictures.SAMPLE, tmp_path / "a.jpeg")
    (tmp_path / "b.txt").write_text("no image")
    code, shown = on_a_terminal("classify", str(tmp_path))
    assert code == 1
    assert "X-ray " in shown
    assert "pneumonia" in shown
    assert "2 X-rays in " in shown
    code, shown = on_a_terminal("classify", "--json", str(tmp_path))
    assert [json.loads(line)["status"] for line in shown.splitlines()] == ["classified", "rejected"]


def on_a_terminal(*words: str) -> tuple[int, str]:
    """Run `cxr` on a terminal of 80 columns; return its exit code and all that it wrote."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(COLUMNS="80", TERM="xterm", NO_COLOR="1")
        os.execv(sys.executable, [sys.executable, "-m", "cxr", *words])
    found = b""
    with suppress(OSError):  # Linux says so when the other side has closed
        while more := os.read(terminal, 65536):
            found += more
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), found.decode()
