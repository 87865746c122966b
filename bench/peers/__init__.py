"""Serve the same network in other ways, written as their documentation shows; `bench.compare` times them.

They run in an environment of their own, `.venv/bench`. Each takes an image's bytes, answers with the
probability and the map, and writes the preview into a folder.
"""
