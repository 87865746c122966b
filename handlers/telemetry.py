"""What the handlers tell of themselves: log lines, and figures for the alarms. Never a file's name."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from pipeline.logs import start_logging
from pipeline.settings import load_settings

_NAMESPACE = "CXRInbox"
_logger: Logger | None = None
_metrics: Metrics | None = None


@contextmanager
def invocation(context: LambdaContext) -> Iterator[None]:
    """One call of a handler: its log lines carry the request's id, its figures are written at its end."""
    logger().thread_safe_append_keys(correlation_id=context.aws_request_id)  # local mode has many threads
    try:
        yield
    finally:
        logger().thread_safe_clear_keys()
        if _metrics:
            _metrics.flush_metrics()


def count(name: str, value: float) -> None:
    """Add to a figure of this invocation. In Lambda alone: there CloudWatch reads what is printed.

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
    """JSON lines on standard error, in which a hash stands for a file's name; our own loggers join in."""
    global _logger
    if _logger is None:
        settings = load_settings()
        _logger = Logger(service=settings.stack, level=settings.log_level, stream=sys.stderr)
        _logger.append_keys(name="%(name)s")
        start_logging(settings.log_level, _logger.registered_handler)
    return _logger
