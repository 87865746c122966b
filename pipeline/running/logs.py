"""Send the log lines of our own code where a program wants them."""

import logging
import sys

OURS = ("cxr", "ec2_runner", "handlers", "model", "pipeline", "web")


def start_logging(level: str, handler: logging.Handler | None = None) -> None:
    """Send log lines of this level and above to a handler; without one, write them to standard error.

    Every program calls this with the `log_level` of its settings.
    """
    if handler is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in OURS:
        log = logging.getLogger(name)
        log.setLevel(level)
        log.handlers = [handler]
        log.propagate = False  # the Lambda runtime's own handler would repeat each line
