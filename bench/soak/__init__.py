"""Break everything at random, from a seed, while X-rays come; then count what is lost.

`load` makes the objects and what is done with them, `folder` and `cloud` run the two paths and cause the
faults, and `checker` compares inbox and outbox afterwards.
"""
