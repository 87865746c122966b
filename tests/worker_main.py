"""`cxr worker`, for tests: the real one, but that it dies of images that say so, as of a bug in a decoder."""

import os
import sys
import time

import cxr
from model.engine import Engine
from pipeline.ports import Examination

POISON, SLOW = b"this image aborts the worker", b"this image takes its time"

examine = Engine.examine


def examine_or_die(engine: Engine, data: bytes) -> Examination:
    if data.endswith(POISON):
        os.abort()
    if data.endswith(SLOW):
        time.sleep(0.3)
    return examine(engine, data)


if __name__ == "__main__":
    Engine.examine = examine_or_die  # type: ignore[method-assign]
    sys.argv = ["cxr", "worker"]
    cxr.main()
