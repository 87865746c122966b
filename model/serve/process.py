"""Start a judging process (`model.serve.child`) early.

Nothing heavy is imported here, so that a command can load the network while it is still importing its own
modules.
"""

import os
import subprocess
import sys
from pathlib import Path

_PROJECT = Path(__file__).parents[2]
# -P keeps the current folder out of the module path.
CHILD = [sys.executable, "-P", "-m", "model.serve.child"]
_ahead: list["subprocess.Popen[bytes]"] = []


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    """Start a process with pipes to its standard input and output; raise OSError when the system cannot."""
    path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))
    # One image uses one core; the libraries' own threads would only cost memory.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **threads, "PYTHONPATH": path},
    )


def start_ahead() -> None:
    """Start a process that a later `take` returns; it waits for its options."""
    _ahead.append(start(CHILD))


def take(command: list[str]) -> "subprocess.Popen[bytes]":
    """Return the process that was started ahead with this command, or start one."""
    return _ahead.pop() if _ahead and command == CHILD else start(command)


def discard() -> None:
    """End processes that were started ahead and never taken."""
    while _ahead:
        with _ahead.pop() as process:  # closes the pipes and waits
            process.kill()
