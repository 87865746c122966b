"""Judge images like the real engine process, except that some images do harm; for tests."""

import os
import signal
import time

from model.serve import child
from model.serve.engine import Engine
from pipeline.records import Examination

CRASHES, SLOW = b"this image crashes the process", b"this image takes its time"
HANGS, HUNGRY = b"this image never ends", b"this image wants all the memory"
KILLED_ONCE = b"this image is at work while somebody kills the process"
CLOSES = b"this image makes the process close its answers and go on"
DEFECT = b"this image meets a defect of ours"
MARK = "ENGINE_CHILD_MARK"  # a variable: a file that says whether somebody has killed the process already

examine = Engine.examine


def examine_or_not(engine: Engine, data: bytes) -> Examination:
    if data.endswith(CRASHES):
        os.abort()
    if data.endswith(SLOW):
        time.sleep(0.3)
    if data.endswith(HANGS):
        time.sleep(600)
    if data.endswith(HUNGRY):
        bytearray(4_000_000_000)
    if data.endswith(CLOSES):
        os.closerange(3, 64)
        time.sleep(600)
    if data.endswith(DEFECT):
        raise RuntimeError(f"a defect over {data!r}")
    if data.endswith(KILLED_ONCE) and not os.path.exists(os.environ[MARK]):  # noqa: PTH110
        open(os.environ[MARK], "wb").close()  # noqa: PTH123
        os.kill(os.getpid(), signal.SIGKILL)
    return examine(engine, data)


if __name__ == "__main__":
    Engine.examine = examine_or_not  # type: ignore[method-assign]
    child.judge_images()
