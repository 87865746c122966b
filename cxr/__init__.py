"""Run the `cxr` command line."""

import sys

_JUDGES = ("classify", "up", "worker")  # commands that need the network from the start


def main() -> None:
    """Run the command line; load the network in its own process while the rest is imported."""
    from model.serve import process

    if sys.argv[1:2] and sys.argv[1] in _JUDGES and not {"--help", "--bucket", "--check"} & set(sys.argv):
        process.start_ahead()
    try:
        from cxr.commands import run_command_line

        run_command_line()
    finally:
        process.discard()
