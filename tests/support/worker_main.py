"""`cxr worker`, for tests: the real one, but that its images are judged by `tests.support.engine_child`."""

import sys

import cxr
from model.serve import process

if __name__ == "__main__":
    process.CHILD[:] = [sys.executable, "-m", "tests.support.engine_child"]
    sys.argv = ["cxr", "worker"]
    cxr.main()
