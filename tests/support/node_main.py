"""Run a DICOM node in tests; it kills itself around the moment when an object gets into the inbox.

A file `kill-before` or `kill-after` in the root says at which side of it; the file goes first.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from handlers import wiring
from pipeline.settings import Settings
from pipeline.store.folder import FolderStore


class Deadly(FolderStore):
    """Kill the process at one side of the last step."""

    def put_file(self, key: str, path: Path) -> None:
        self._die("kill-before")
        super().put_file(key, path)
        self._die("kill-after")

    def _die(self, name: str) -> None:
        if (self.root / name).exists():
            (self.root / name).unlink()
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    root, port = Path(sys.argv[1]), int(sys.argv[2])
    settings = Settings(root=root, dicom_port=port)
    wiring.make_node(settings, wiring.make_arrivals(settings, Deadly(root))).run(threading.Event())
