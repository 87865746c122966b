"""Measure speed, memory and faults; none of these is a test, since figures are of one run on one machine."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in model/serve, whichever is imported first
