"""Run threads that a program cannot do without: watched, and restarted when they end with an error."""

import logging
import threading
import time
from collections.abc import Callable

from pipeline.errors import CxrError, place_of

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0  # seconds before failed work is restarted
_STEADY_SECONDS = 10.0  # after this long without an error, work counts as sound again


class Background:
    """Run work in threads of its own until `stop`; `problems` names work that does not run as it should."""

    def __init__(self) -> None:
        self.stopping = threading.Event()  # for the work itself, which returns soon after this is set
        self._threads: dict[str, threading.Thread] = {}
        self._broken: dict[str, str] = {}  # why work failed last, until it has run for a while

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a thread; restart it when it raises, or returns too early."""
        thread = threading.Thread(target=self._run, args=[name, work], name=f"cxr-{name}", daemon=True)
        self._threads[name] = thread
        thread.start()

    def stop(self, timeout: float = 10) -> None:
        """Tell the work to end, and wait at most `timeout` seconds for all of it."""
        self.stopping.set()
        until = time.monotonic() + timeout
        for thread in self._threads.values():
            if thread is not threading.current_thread():
                thread.join(max(until - time.monotonic(), 0))

    def problems(self) -> list[str]:
        """Return one sentence for each thread that failed lately or is not alive; no sentence holds a key."""
        if self.stopping.is_set():
            return []
        dead = [name for name, thread in self._threads.items() if not thread.is_alive()]
        broken = dict(self._broken) | dict.fromkeys(dead, "its thread has ended")
        return [f"The {name} does not work: {why}." for name, why in sorted(broken.items())]

    def _run(self, name: str, work: Callable[[], None]) -> None:
        pause = _FIRST_PAUSE
        while not self.stopping.is_set():
            began = time.monotonic()
            sound = threading.Timer(_STEADY_SECONDS, self._broken.pop, [name, None])
            sound.daemon = True
            sound.start()
            try:
                work()
                why = "it ended too early"
            except BaseException as error:  # noqa: BLE001  the work has to go on after any error
                why = str(error) if isinstance(error, CxrError) else place_of(error)
            sound.cancel()
            if self.stopping.is_set():
                return
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            self._broken[name] = why
            log.error("the %s failed and is restarted: %s", name, why)
            self.stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
