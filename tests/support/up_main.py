"""Run the real `cxr up` in tests, except that `tests.support.engine_child` judges its images.

Its watcher fails while a file `watcher-fails` is in the root. CONFIRM_SECONDS is how long it waits for a PACS
to confirm.
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import cxr
from model.serve import process
from pipeline.outgoing import queue
from pipeline.store.hints import Hints


def failing(work: Callable[..., None]) -> Callable[..., None]:
    """Return the same function, which raises while the file exists."""
    mark = Path(sys.argv[sys.argv.index("--root") + 1]) / "watcher-fails"

    def work_or_fail(*arguments: Any, **more: Any) -> None:
        if mark.exists():
            raise RuntimeError("the watcher fails")
        work(*arguments, **more)

    return work_or_fail


if __name__ == "__main__":
    for name in ("settle", "come_across", "look"):  # its own thread, its scans, and the system's events
        setattr(Hints, name, failing(getattr(Hints, name)))
    if seconds := os.environ.get("CONFIRM_SECONDS"):
        queue.CONFIRM_WITHIN = timedelta(seconds=float(seconds))
    process.CHILD[:] = [sys.executable, "-m", "tests.support.engine_child"]
    sys.argv = ["cxr", *sys.argv[1:]]
    cxr.main()
