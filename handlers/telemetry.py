"""Write the handlers' log lines, and figures for the alarms; never a file's name."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from pipeline.running.logs import start_logging
from pipeline.settings import load_settings

_NAMESPACE = "CXRInbox"
_logger: Logger | None = None
_metrics: Metrics | None = None


@contextmanager
def invocation(context: LambdaContext) -> Iterator[None]:
    """Tag the log lines of one call of a handler with the request's id; write its figures at the end."""
    logger().thread_safe_append_keys(correlation_id=context.aws_request_id)  # local mode runs many threads
    try:
        yield
    finally:
        logger().thread_safe_clear_keys()
        if _metrics:
            _metrics.flush_metrics()


def count(name: str, value: float) -> None:
    """Add to a figure of this invocation; only in Lambda, where CloudWatch reads standard output.

    docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format.html
    """
    global _metrics
    if "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:
        return
    if _metrics is None:
        _metrics = Metrics(namespace=_NAMESPACE, service=load_settings().stack)
    unit = MetricUnit.Seconds if name.endswith("Seconds") else MetricUnit.Count
    _metrics.add_metric(name=name, unit=unit, value=value)


def logger() -> Logger:
    """Return the logger: JSON lines on standard error, with hashes instead of file names.

    The loggers of our own packages write through it, too.
    """
    global _logger
    if _logger is None:
        settings = load_settings()
        _logger = Logger(service=settings.stack, level=settings.log_level, stream=sys.stderr)
        _logger.append_keys(name="%(name)s")
        start_logging(settings.log_level, _logger.registered_handler)
    return _logger
