"""The command line: `cxr`."""

import sys

_JUDGES = ("classify", "up", "worker")  # commands that need the network at once


def main() -> None:
    """Run the command line, and have its network loaded while the rest is still imported."""
    from model.serve import process

    if sys.argv[1:2] and sys.argv[1] in _JUDGES and not {"--help", "--bucket", "--check"} & set(sys.argv):
        process.start_ahead()
    try:
        from cxr.commands import run

        run()
    finally:
        process.discard()
