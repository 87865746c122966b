"""Measurements. None of them is a test: they report figures and ratios of one run on one machine."""
