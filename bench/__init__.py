"""Measure speed, memory and faults; none of these is a test, since figures are of one run on one machine."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in model/serve, whichever is imported first
# As `model.serve.process` has it for the processes that judge: images run side by side, each on one core. The
# compared servers inherit it; otherwise each of their workers starts a thread for each core, which costs them
# half of their speed.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
