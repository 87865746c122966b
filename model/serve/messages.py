"""Define the messages between a judging process (`model.serve.child`) and its parent, over two pipes."""

from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

from pydantic import BaseModel, ConfigDict

from pipeline.records import ImageFacts
from pipeline.verdict import Finding, ModelRef, ReasonCode, Warning

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

HEAD = 8  # bytes of a length, big-endian
_PIPE = 1 << 20  # bytes; the most that Linux allows a user


class Refusal(BaseModel):
    """Carry an `InputRejected`."""

    model_config = ConfigDict(frozen=True)

    code: ReasonCode
    message: str
    facts: ImageFacts | None = None


class ImageAnswer(BaseModel):
    """Carry the answer about one image, followed by the preview's bytes; exactly one of the first four is
    set.
    """

    model_config = ConfigDict(frozen=True)

    finding: Finding | None = None
    refusal: Refusal | None = None
    out_of_memory: bool = False
    defect: str | None = None  # a bug of ours, and where
    facts: ImageFacts | None = None
    warnings: tuple[Warning, ...] = ()
    timing_ms: dict[str, float] = {}
    preview: int | None = None  # its size in bytes
    is_spent: bool = False  # it has grown too large: start another process


class Greeting(BaseModel):
    """Carry the first message of a process: the network that it loaded, or why it could not."""

    model: ModelRef | None = None
    problem: str = ""


class ChildOptions(BaseModel):
    """Carry the first message to a process."""

    weights: Path | None = None
    max_pixels: int = 50_000_000
    prevalence: float | None = None
    keep_uid: bool = False
    burned_in_previews: bool = False
    full_previews: bool = False
    image_seconds: float = 20
    image_memory: int = 1_500_000_000


def widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe hold a whole image, so that it passes in one write, where the system can (Linux)."""
    if pipe and fcntl and hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # the user's limit of wide pipes is reached
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)


def send(stream: IO[bytes], message: BaseModel, tail: bytes = b"") -> None:
    """Write a message, preceded by its length and followed by a tail."""
    content = message.model_dump_json(by_alias=True).encode()
    stream.write(len(content).to_bytes(HEAD, "big") + content + tail)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read the bytes of one image; return None when there are no more."""
    head = stream.read(HEAD)
    if len(head) < HEAD:
        return None
    size = int.from_bytes(head, "big")
    data = stream.read(size)
    return data if len(data) == size else None
