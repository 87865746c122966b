"""Judge images in child processes, which can be killed.

An untrusted file may make a decoder hang, crash, or ask for all the memory of the machine. Each image has a
deadline and each process a memory limit, so a failure costs that image its attempt and nothing else. Neither
numpy nor ONNX Runtime is imported here; `model.serve.child` is the other end.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING

from model.serve import process
from model.serve.messages import HEAD, ChildOptions, Greeting, ImageAnswer, send, widen
from model.serve.process import CHILD
from pipeline.errors import EngineFailed, HostError, InputRejected, UsageError
from pipeline.records import Examination
from pipeline.running.background import Background
from pipeline.running.parallel import Turn, Turns
from pipeline.verdict import ModelRef

if TYPE_CHECKING:
    from pipeline.settings import Settings

_LOAD_SECONDS = 60.0  # to load the network
_LOADING_SECONDS = 4.0  # a process that loads longer lets other images go first
_SLOW_SECONDS = 1.0  # an image that takes longer lets other images use the cores
_TICK_SECONDS = 0.1  # how often the limits are checked
_END_SECONDS = 5.0  # for a process that no longer answers to end
_KILLED = (-signal.SIGTERM, -9)  # by another program, or by the system when memory runs out
_ADVICE = "Export the X-ray again as PNG or JPEG, and drop the new file."


class GuardedEngine:
    """Judge up to `limit` images at a time, and as many slow ones beside them.

    See `pipeline.ports.InferenceEngine`. Many threads may use it. `close` it, or leave its `with` block.
    """

    def __init__(self, options: ChildOptions, limit: int, command: Sequence[str] = ()) -> None:
        """Start the first process without waiting for it; `command` replaces the standard command."""
        self._options, self._turns = options, Turns(limit)
        self._command = [*(command or CHILD)]
        self._guard = threading.Lock()
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._closed = False
        self._model: ModelRef | None = None
        self._wanted = 0
        self._background = Background()
        self.warm(1)
        self._background.start("deadline of images", self._watch)

    @classmethod
    def of(cls, settings: "Settings", full_previews: bool = False) -> "GuardedEngine":
        """Start the engine that the settings ask for; with `full_previews`, one for full pictures."""
        names = ChildOptions.model_fields.keys() - {"full_previews"}
        options = {name: getattr(settings, name) for name in names}
        return cls(ChildOptions(**options, full_previews=full_previews), settings.threads)

    @property
    def model(self) -> ModelRef:
        """Return the network, once it is loaded; raise UsageError when the weights are unusable."""
        if self._model is None:
            child = self._take()
            self._give_back(child)
            self._model = child.model
        return self._model

    def warm(self, count: int) -> None:
        """Keep `count` processes ready or starting from now on, without waiting for them."""
        self._wanted = count
        for _ in range(count - len(self._all)):
            child = self._start()
            with self._guard:
                self._idle.insert(0, child)

    def examine(self, data: bytes) -> Examination:
        """Judge the bytes of one image file, see `pipeline.ports.InferenceEngine`.

        Raises EngineFailed when it takes too long or too much memory, or ends its process; HostError when no
        process can be started.
        """
        with self._turns.turn() as turn:
            answer, preview = self._ask(data, turn)
        if answer.refusal:
            raise InputRejected(answer.refusal.code, answer.refusal.message, answer.refusal.facts)
        if answer.out_of_memory:
            raise self._too_much_memory()
        if answer.finding is None or answer.facts is None:
            raise EngineFailed("internal", f"The X-ray could not be judged ({answer.defect or 'no answer'}).")
        return Examination(answer.facts, answer.finding, preview, answer.warnings, answer.timing_ms)

    def close(self) -> None:
        """End all processes at once, even while they work."""
        with self._guard:
            self._closed = True
            children = list(self._all)
            self._all.clear()
            self._idle.clear()
        self._background.stop(1)
        for child in children:
            child.kill()

    def __enter__(self) -> "GuardedEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, data: bytes, turn: Turn) -> tuple[ImageAnswer, bytes | None]:
        """Ask one process, and a second one if something else killed the first."""
        for is_last in (False, True):
            child = self._take(turn)
            try:
                with child.limited(turn, _SLOW_SECONDS, self._options.image_seconds):
                    answer, preview = child.ask(data)
            except _Gone:
                self._drop(child)
                if child.was_killed and not child.is_overdue and not is_last and not self._closed:
                    continue
                raise self._why(child) from None
            except BaseException:  # Ctrl-C during an answer
                self._drop(child)
                raise
            self._drop(child) if answer.is_spent or child.is_overdue else self._give_back(child)
            return answer, preview
        raise AssertionError  # the loop has returned, or raised

    def _watch(self) -> None:
        """Enforce all processes' limits until the engine is closed."""
        while not self._background.stopping.wait(_TICK_SECONDS):
            with self._guard:
                children = list(self._all)
            for child in children:
                child.check(time.monotonic())

    def _why(self, child: "_Child") -> Exception:
        """Build the error for an image whose process ended."""
        if self._closed:
            return HostError("the program is shutting down")
        if child.is_overdue:
            seconds = f"{self._options.image_seconds:.0f}"
            message = f"The X-ray was not judged within {seconds} seconds. {_ADVICE}"
            return EngineFailed("took_too_long", message)
        if child.was_killed:
            return self._too_much_memory()
        return EngineFailed("crashed", f"The image decoder crashed on this file. {_ADVICE}")

    def _too_much_memory(self) -> EngineFailed:
        limit = f"{self._options.image_memory / 1e9:.1f} GB"
        message = f"Judging the X-ray needs more than {limit} of memory. {_ADVICE}"
        return EngineFailed("out_of_memory", message)

    def _take(self, turn: Turn | None = None) -> "_Child":
        """Return an idle process with the network loaded; give up the turn if that takes long."""
        with self._guard:
            if self._closed:
                raise HostError("the program is shutting down")
            child = self._idle.pop() if self._idle else None
        child = child or self._start()
        try:
            if not child.is_ready:
                with child.limited(turn, _LOADING_SECONDS, _LOAD_SECONDS):
                    child.wait_ready()
        except BaseException:
            self._drop(child)
            if self._closed:
                raise HostError("the program is shutting down") from None
            raise
        return child

    def _give_back(self, child: "_Child") -> None:
        with self._guard:
            if not self._closed:
                self._idle.append(child)

    def _start(self) -> "_Child":
        child = _Child(self._command, self._options)
        with self._guard:
            if not self._closed:
                self._all.add(child)
                return child
        child.kill()
        raise HostError("the program is shutting down")

    def _drop(self, child: "_Child") -> None:
        child.kill()
        with self._guard:
            self._all.discard(child)
            is_closed = self._closed
        if not is_closed:
            with suppress(HostError):  # the next request tries again and reports the failure
                self.warm(self._wanted)


def picture_maker(settings: "Settings", full: bool = False) -> Callable[[bytes], bytes | None]:
    """Return what makes the preview of a file, or its full picture, in a process of its own each time."""

    def picture(data: bytes) -> bytes | None:
        with GuardedEngine.of(settings, full) as engine:
            return engine.examine(data).preview

    return picture


class _Gone(Exception):
    """Report that the process ended, or answered nonsense."""


class _Child:
    """Hold one process with its own network; one thread uses it at a time."""

    def __init__(self, command: list[str], options: ChildOptions) -> None:
        """Start the process; raise HostError when the system cannot."""
        try:
            self._process = process.take(command)
        except OSError as error:
            raise HostError(f"no process can be started ({error.strerror})") from error
        self.is_overdue = self._is_ended = False  # the second: by this program
        self._model: ModelRef | None = None
        self._guard = threading.Lock()
        self._limits: tuple[Turn | None, float, float] | None = None
        assert self._process.stdin is not None
        for stream in (self._process.stdin, self._process.stdout):
            widen(stream)
        with suppress(OSError):  # it has ended already, which `wait_ready` reports
            send(self._process.stdin, options)

    @property
    def model(self) -> ModelRef:
        """Return the network that it has loaded."""
        assert self._model is not None
        return self._model

    @property
    def is_ready(self) -> bool:
        """Return whether it has loaded the network."""
        return self._model is not None

    @property
    def was_killed(self) -> bool:
        """Return whether something other than this program ended it by a signal."""
        return self._process.returncode in _KILLED and not self._is_ended

    @contextmanager
    def limited(self, turn: Turn | None, slow: float, longest: float) -> Iterator[None]:
        """Limit the block: after `slow` seconds give up the turn, after `longest` end the process (see
        `check`).
        """
        now = time.monotonic()
        self._limits = (turn, now + slow, now + longest)
        try:
            yield
        finally:
            with self._guard:  # an answer that came in time must not count as late
                self._limits = None

    def check(self, now: float) -> None:
        """Apply its limits at a moment, without waiting for the process to end."""
        with self._guard:
            turn, slow, end = self._limits or (None, now, now + 1)
            if now >= slow and turn:
                turn.stand_aside()
            if now >= end:
                self.is_overdue = True
                self._process.kill()

    def wait_ready(self) -> None:
        """Wait until it has loaded the network; raise UsageError when it cannot, HostError when it died."""
        try:
            greeting = Greeting.model_validate_json(self._read_block())
        except (_Gone, ValueError):
            self.kill()
            code = self._process.returncode
            raise HostError(f"the judging process ended while starting (exit code {code})") from None
        if greeting.model is None:
            raise UsageError(greeting.problem)
        self._model = greeting.model

    def ask(self, data: bytes) -> tuple[ImageAnswer, bytes | None]:
        """Have it judge an image; raise _Gone when it ends instead."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(data).to_bytes(HEAD, "big"))
            self._process.stdin.write(data)
            self._process.stdin.flush()
            answer = ImageAnswer.model_validate_json(self._read_block())
            return answer, self._read(answer.preview) if answer.preview is not None else None
        except (OSError, ValueError) as error:  # a broken or closed pipe
            self.kill()
            raise _Gone from error

    def kill(self) -> None:
        """End it at once and wait for that; calling this again is harmless."""
        if self._process.poll() is None:
            self._is_ended = True
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # the system may keep it longer
            self._process.wait(_END_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()

    def _read_block(self) -> bytes:
        return self._read(int.from_bytes(self._read(HEAD), "big"))

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            with suppress(subprocess.TimeoutExpired):  # it has ended; its exit code says why
                self._process.wait(_END_SECONDS)
            raise _Gone
        return data
