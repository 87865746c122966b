"""Judge images in a process of its own: read them from standard input, answer on standard output.

`model.serve.guarded` starts it, and kills it when an image takes too long. It limits its own memory, where
the system can, and ends when its parent is gone.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from model.serve.engine import Engine
from model.serve.messages import ChildOptions, Greeting, ImageAnswer, Refusal, receive, send
from pipeline.errors import InputRejected, UsageError, place_of

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

_GRACE_SECONDS = 5.0  # after the deadline, for the parent to end this process first
_GROWN = 600_000_000  # bytes of resident memory; decoders seldom free what they allocated
_STATE = Path("/proc/self/statm")  # see man proc_pid_statm: the second number counts resident pages


def judge_images() -> None:
    """Judge images until the input ends."""
    images, answers = _streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent lets it finish, or kills it
    told = receive(images)
    if told is None:
        return
    options = ChildOptions.model_validate_json(told)
    try:
        engine = Engine.of(options)
    except UsageError as error:
        send(answers, Greeting(problem=str(error)))
        return
    _limit_memory(options.image_memory)
    send(answers, Greeting(model=engine.model))
    while (data := receive(images)) is not None:
        _set_alarm(options.image_seconds + _GRACE_SECONDS)
        answer, preview = _judged(engine, data)
        _set_alarm(0)
        send(answers, answer, preview or b"")
        if answer.is_spent:
            return


def _judged(engine: Engine, data: bytes) -> tuple[ImageAnswer, bytes | None]:
    try:
        seen = engine.examine(data)
    except InputRejected as error:
        refusal = Refusal(code=error.code, message=str(error), facts=error.facts)
        return ImageAnswer(refusal=refusal, is_spent=_has_grown()), None
    except MemoryError:
        return ImageAnswer(out_of_memory=True, is_spent=True), None
    except Exception as error:  # noqa: BLE001  one image must not end the process
        return ImageAnswer(defect=place_of(error)), None
    answer = ImageAnswer(
        facts=seen.facts,
        finding=seen.finding,
        warnings=seen.warnings,
        timing_ms=seen.timing_ms,
        preview=None if seen.preview is None else len(seen.preview),
        is_spent=_has_grown(),
    )
    return answer, seen.preview


def _streams() -> tuple[BinaryIO, BinaryIO]:
    """Return the two pipes; what libraries print is discarded, so that it cannot mix with the answers."""
    images, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return images, answers


def _limit_memory(most: int) -> None:
    """Refuse memory beyond `most` bytes of private data (Linux)."""
    if resource is not None and sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def _set_alarm(seconds: float) -> None:
    """End this process after so many seconds, even if a decoder never returns to Python; 0 cancels."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _has_grown() -> bool:
    """Return whether the process holds much memory now; outside Linux, whether it ever did.

    On Linux the highest value also counts the memory of the parent program.
    """
    with suppress(OSError):
        return int(_STATE.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE") > _GROWN
    if resource is None:
        return False
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit > _GROWN


if __name__ == "__main__":
    judge_images()
