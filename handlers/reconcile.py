"""Queue the objects that have no verdict, on a schedule, in case a notification was lost."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import telemetry, wiring
from pipeline.errors import UsageError
from pipeline.events import Event
from pipeline.reconcile import reconcile_inbox


def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Compare the inbox with the worklist; return the figures of the comparison."""
    with telemetry.invocation(context):
        ports = wiring.ports()
        if ports.queue is None:
            raise UsageError("CXR_QUEUE_URL: set it to the URL of the jobs' queue")
        found = reconcile_inbox(ports.store, ports.index, ports.queue, ports.now())
        ports.count("OldestWaitingSeconds", found.oldest_seconds)
        ports.count("Waiting", found.waiting)
        return vars(found)
