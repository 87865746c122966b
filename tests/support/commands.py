"""Run `cxr` as a person does: in this process, or in its own where the process itself is tested."""

import io
import signal
import subprocess
import sys
from typing import Any
from unittest import mock

import cxr as command_line

Done = subprocess.CompletedProcess[bytes]


def process(*arguments: object, stdin: bytes = b"") -> Done:
    """Run a command in a separate process, in which every warning is an error."""
    command = [sys.executable, "-W", "error", "-m", "cxr", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=100, check=False)


def cxr(*arguments: object) -> Done:
    """Run a command in this process, which saves the second that importing the libraries takes."""
    words, out, err = [*map(str, arguments)], io.BytesIO(), io.BytesIO()
    streams: dict[str, Any] = {"stdout": _text(out), "stderr": _text(err), "stdin": _text(io.BytesIO())}
    before = signal.getsignal(signal.SIGTERM)
    try:
        with mock.patch.multiple(sys, argv=["cxr", *words], **streams):
            command_line.main()
        code: object = 0
    except SystemExit as end:
        code = end.code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(["cxr", *words], code or 0, out.getvalue(), err.getvalue())


def _text(stream: io.BytesIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, "utf-8", write_through=True)
