"""Start a process that judges (`model.serve.child`), and early enough.

Nothing heavy is imported here, so that a command can have the network loaded while it still imports what it
needs itself.
"""

import os
import subprocess
import sys
from pathlib import Path

_PROJECT = Path(__file__).parents[2]
CHILD = [
    sys.executable,
    "-P",
    "-m",
    "model.serve.child",
]  # -P: a folder that happens to be here holds no modules
_ahead: list["subprocess.Popen[bytes]"] = []


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    """Start a process, with pipes to its standard input and output; OSError when the system cannot."""
    path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))
    # One image uses one core: the libraries' own threads would only cost memory.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **threads, "PYTHONPATH": path},
    )


def start_ahead() -> None:
    """Start one for whoever `take`s it later; it waits for its options."""
    _ahead.append(start(CHILD))


def take(command: list[str]) -> "subprocess.Popen[bytes]":
    """Return the process that was started ahead, if there is one of this command, or start one."""
    return _ahead.pop() if _ahead and command == CHILD else start(command)


def discard() -> None:
    """End what was started ahead and never taken."""
    while _ahead:
        with _ahead.pop() as process:  # which closes the pipes, and waits
            process.kill()
