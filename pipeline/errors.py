"""Define the errors of the whole system as one tree; code branches on the type, people read the message.

CxrError
├── UsageError              the command or a setting is wrong: exit code 2
├── InputRejected           this image cannot be judged, by its own fault: ends in a `rejected` verdict
├── StoreError              the store did not answer, or refused
│   ├── ConditionFailed     a conditional write found another state than expected: look again
│   ├── ObjectTooLarge      the object exceeds the limit that the reader set
│   ├── ObjectUnreadable    the object exists, but this process may not read it
│   ├── KeyNotUsable        this store cannot hold an object of that name
│   ├── NotQueued           the queue did not take some of the jobs
│   └── IndexNotReady       the worklist cannot be read or written now: try again in a moment
├── NotReviewed             a reader's word about a verdict cannot be kept; the message says why
│   └── VerdictReplaced     the verdict changed since the reader saw it
├── NoResult                no DICOM result can be made of this X-ray and its verdict
│   ├── ResultOutdated      the X-ray or its verdict was replaced meanwhile: wait for the new verdict
│   └── ResultFailed        it could not be made by a fault that may pass: tried again
├── EngineFailed            the engine did not finish this image (too slow, too large, a crash): tried again
├── HostError               the inference host did not do the job: tried again
│   └── HostNotReady        no host is ready (starting, away, another release): wait, then try again
│       └── HostNotDone     the host had no time left for the rest of the jobs, or broke off: send them again
├── StackError              AWS did not do what `cxr deploy`, `status` or `destroy` asked of it
│   └── StackGoesOn         CloudFormation goes on with an operation whose end was not seen
└── IngestFailed            some records of an event failed: the sender delivers the event again
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pipeline.records import ImageFacts, Job, ObjectInfo, Outcome
    from pipeline.verdict import ReasonCode


def place_of(error: BaseException) -> str:
    """Return the type of an error and where it was raised, for a log: `OSError at folder.py:70`.

    The message is left out, because it may hold a name.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"
        if frames
        else type(error).__name__
    )


_PARTS = {
    (
        "boto3",
        "botocore",
        "paramiko",
        "websockets",
    ): "AWS support is not installed: pip install 'cxr-inbox[aws]'",
    (
        "dicomweb_client",
        "highdicom",
        "pydicom",
        "pynetdicom",
        "requests",
    ): "PACS support is not installed: pip install 'cxr-inbox[pacs]'",
    ("ray", "pyarrow"): "Ray is not installed: pip install 'cxr-inbox[ray]'",
    ("torch", "torchvision", "matplotlib", "sklearn", "onnx", "onnxscript", "safetensors"): (
        "training and evaluation support is not installed: pip install 'cxr-inbox[train]'"
    ),
}


def part_that_lacks(error: ImportError) -> str | None:
    """Return how to install the library that an import did not find; None where it is not an optional one."""
    library = (error.name or "").partition(".")[0]
    return next((advice for libraries, advice in _PARTS.items() if library in libraries), None)


class CxrError(Exception):
    """Serve as the root of the tree."""


class UsageError(CxrError):
    """Report a wrong command or setting; the message says what to do instead."""


class InputRejected(CxrError):
    """Report an image that cannot be judged, by its own fault.

    `code` comes from the verdict's closed list; the message tells the person what to do.
    """

    def __init__(self, code: ReasonCode, message: str, facts: ImageFacts | None = None) -> None:
        super().__init__(message)
        self.code: ReasonCode = code
        self.facts = facts


class StoreError(CxrError):
    """Report that the store did not answer, or refused."""


class ConditionFailed(StoreError):
    """Report that the object is not in the state that a conditional write requires."""


class ObjectTooLarge(StoreError):
    """Report an object larger than the reader's limit; it was not read."""

    def __init__(self, info: ObjectInfo) -> None:
        super().__init__(f"the object has {info.size} bytes")
        self.info = info


class ObjectUnreadable(StoreError):
    """Report an object that exists but that this process may not read."""

    def __init__(self, info: ObjectInfo) -> None:
        super().__init__("the object may not be read")
        self.info = info


class KeyNotUsable(StoreError):
    """Report that this store cannot hold an object of that name."""


class NotQueued(StoreError):
    """Report jobs that the queue did not take; it took the others."""

    def __init__(self, message: str, jobs: Sequence[Job]) -> None:
        super().__init__(message)
        self.jobs = list(jobs)


class IndexNotReady(StoreError):
    """Report that the worklist cannot be read or written now; it repairs itself from the outbox."""


class NotReviewed(CxrError):
    """Report that a reader's word about a verdict cannot be kept; the message tells the reader why."""


class VerdictReplaced(NotReviewed):
    """Report that the verdict changed since the reader saw it."""


class NoResult(CxrError):
    """Report that no DICOM result can be made of an X-ray and its verdict; the message says why."""


class ResultOutdated(NoResult):
    """Report that the X-ray or its verdict was replaced, so that the verdict is not about this X-ray."""


class ResultFailed(NoResult):
    """Report that a DICOM result could not be made by a fault that may pass."""


class EngineFailed(CxrError):
    """Report that the engine did not finish one image; `code` and message go into its `failed` verdict."""

    def __init__(self, code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.code: ReasonCode = code


class HostError(CxrError):
    """Report that the inference host did not do the job."""


class HostNotReady(HostError):
    """Report that no host is ready; try again after `retry_after` seconds.

    `is_fault` marks a problem that a person should look at (a wrong host key, a refused launch), as opposed
    to one that passes by itself (a boot).
    """

    def __init__(self, message: str, retry_after: float = 30, is_fault: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.is_fault = retry_after, is_fault


class HostNotDone(HostNotReady):
    """Report that a host took jobs and has not finished them: its time was over, or it broke off.

    `tried` are the keys that it had and did not answer; the other ones did not get to it.
    """

    def __init__(
        self, message: str, retry_after: float, is_fault: bool = False, tried: Collection[str] = ()
    ) -> None:
        super().__init__(message, retry_after, is_fault)
        self.tried = frozenset(tried)


class StackError(CxrError):
    """Report that AWS did not make, show or delete the stack; the message says what to do."""


class StackGoesOn(StackError):
    """Report that CloudFormation goes on with an operation whose end this process did not see."""


class IngestFailed(CxrError):
    """Report that some of an event's records failed and are worth another delivery."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        failed = sum(outcome.result == "failed" for outcome in outcomes)
        super().__init__(f"{failed} of {len(outcomes)} records failed; deliver the event again")
        self.outcomes = list(outcomes)


def explained(error: Exception) -> tuple[int, str]:
    """Return the exit code of a command that ended with this error, and the line that says what to do."""
    if isinstance(error, CxrError):
        return 2 if isinstance(error, UsageError) else 1, str(error)
    if isinstance(error, ImportError) and (needs := part_that_lacks(error)):
        return 2, needs
    return 1, f"unexpected error: {place_of(error)}; run `cxr --verbose COMMAND ...` for the trace"
