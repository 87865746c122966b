"""The errors of the whole system, one tree; code branches on the type, people read the message.

CxrError
├── UsageError              the command or a setting is wrong: exit code 2
├── InputRejected           this image cannot be judged, by its own fault: ends in a `rejected` verdict
├── StoreError              the store did not answer, or refused
│   ├── ConditionFailed     a conditional write met another state than expected: look again
│   ├── ObjectTooLarge      the object exceeds the limit that the reader set
│   ├── ObjectUnreadable    the object is there, and may not be read
│   ├── KeyNotUsable        this store cannot hold an object of that name
│   └── IndexNotReady       the worklist cannot be read or written now: ask again in a moment
├── EngineFailed            the engine did not finish this image: too slow, too large or a crash; tried again
├── HostError               the inference host did not do the job: tried again
│   └── HostNotReady        there is no host to ask yet (starting, away, another release): wait, and ask again
├── StackError              AWS did not do what `cxr deploy`, `status` or `destroy` asked of it
└── IngestFailed            some records of an event failed: the sender delivers the event again
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.records import ImageFacts, ObjectInfo, Outcome
    from pipeline.verdict import ReasonCode


def place_of(error: BaseException) -> str:
    """What went wrong and where, for a log: `OSError at folder.py:70`.

    Without the message, which may hold a name.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        if frames
        else type(error).__name__
    )


_PARTS = {
    ("boto3", "botocore", "paramiko", "websockets"): "AWS needs its parts: pip install 'cxr-inbox[aws]'",
    ("ray", "pyarrow"): "Ray is not installed: pip install 'cxr-inbox[ray]'",
    ("torch", "torchvision", "matplotlib", "sklearn", "onnx", "onnxscript", "safetensors"): (
        "training and measuring need their parts: pip install 'cxr-inbox[train]'"
    ),
}


def part_that_lacks(error: ImportError) -> str | None:
    """Return how to install what an import did not find; None where it is no part that may be left out."""
    library = (error.name or "").partition(".")[0]
    return next((advice for libraries, advice in _PARTS.items() if library in libraries), None)


class CxrError(Exception):
    """The root of the tree."""


class UsageError(CxrError):
    """The message says what to do instead."""


class InputRejected(CxrError):
    """The image's own fault.

    `code` is of the verdict's closed list; the message tells the person what to do.
    """

    def __init__(self, code: ReasonCode, message: str, facts: ImageFacts | None = None) -> None:
        super().__init__(message)
        self.code: ReasonCode = code
        self.facts = facts


class StoreError(CxrError):
    """The store did not answer, or refused."""


class ConditionFailed(StoreError):
    """The object is not in the state on whose condition it was to be written."""


class ObjectTooLarge(StoreError):
    """The object is larger than the reader's limit; it was not read."""

    def __init__(self, info: ObjectInfo) -> None:
        super().__init__(f"the object has {info.size} bytes")
        self.info = info


class ObjectUnreadable(StoreError):
    """The object is there and this process may not read it."""

    def __init__(self, info: ObjectInfo) -> None:
        super().__init__("the object may not be read")
        self.info = info


class KeyNotUsable(StoreError):
    """This store cannot hold an object of that name."""


class IndexNotReady(StoreError):
    """The worklist cannot be read or written now; it heals by itself, from the outbox."""


class EngineFailed(CxrError):
    """The engine did not finish one image; `code` and message are for its verdict, which says `failed`."""

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code: ReasonCode = code


class HostError(CxrError):
    """The inference host did not do the job."""


class HostNotReady(HostError):
    """No host can be asked now. `retry_after` seconds is when it is worth asking again.

    `is_fault` tells what a person should look at (a wrong host key, a launch that was refused) from what
    passes by itself (a boot).
    """

    def __init__(self, message: str, retry_after: float = 30, is_fault: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.is_fault = retry_after, is_fault


class StackError(CxrError):
    """AWS did not make, show or delete the stack; the message says what to do."""


class IngestFailed(CxrError):
    """Some of an event's records failed and are worth another delivery."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        failed = sum(outcome.result == "failed" for outcome in outcomes)
        super().__init__(f"{failed} of {len(outcomes)} records failed; deliver the event again")
        self.outcomes = list(outcomes)


def explained(error: Exception) -> tuple[int, str]:
    """Return the exit code of a command that ended by this error, and the line that says what to do."""
    if isinstance(error, CxrError):
        return 2 if isinstance(error, UsageError) else 1, str(error)
    if isinstance(error, ImportError) and (needs := part_that_lacks(error)):
        return 2, needs
    return 1, f"unexpected error: {place_of(error)}; run `cxr --verbose COMMAND ...` for the trace"
