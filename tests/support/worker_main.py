"""Run the real `cxr worker` in tests, except that `tests.support.engine_child` judges its images.

It publishes the host key `TEST_HOST_KEY`.
"""

import os
import sys
from pathlib import Path

import cxr
from ec2_runner.host import agent
from model.serve import process

if __name__ == "__main__":
    process.CHILD[:] = [sys.executable, "-m", "tests.support.engine_child"]
    if key := os.environ.get("TEST_HOST_KEY"):
        agent.HOST_KEY = Path(key)
    sys.argv = ["cxr", "worker"]
    cxr.main()
