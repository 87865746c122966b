"""Measure speed, memory and faults; none of these is a test, since figures are of one run on one machine."""
