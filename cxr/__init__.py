"""Run the `cxr` command line."""

import os
import sys

_JUDGES = ("classify", "up", "worker")  # commands that need the network from the start
_JUDGES_NOTHING = ("--help", "--check", "--bucket")


def main() -> None:
    """Run the command line; load the network in its own process while the rest is imported."""
    from model.serve import process

    if sys.argv[1:2] and sys.argv[1] in _JUDGES and not _may_judge_nothing():
        process.start_ahead()
    try:
        from cxr.commands import run_command_line

        run_command_line()
    finally:
        process.discard()


def _may_judge_nothing() -> bool:
    """Return whether the command may need no network: it shows help, or the page of a bucket.

    A bucket may be named in `cxr.toml`, which is read later.
    """
    if any(word.partition("=")[0] in _JUDGES_NOTHING for word in sys.argv):
        return True
    file = os.environ.get("CXR_CONFIG") or "cxr.toml"
    return sys.argv[1] == "up" and bool(os.environ.get("CXR_BUCKET") or os.path.exists(file))  # noqa: PTH110
