"""Queue the objects that have no verdict, on a schedule, in case a notification was lost."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import telemetry, wiring
from pipeline.errors import UsageError
from pipeline.events import Event
from pipeline.reconcile import MOST_AT_ONCE, next_look, note_next_look, reconcile_inbox

_RESERVE_SECONDS = 15.0  # of the function's time, for the last requests of a look


def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Compare the inbox with the worklist, from where the last run ended; return the figures."""
    with telemetry.invocation(context):
        ports = wiring.ports()
        if ports.queue is None:
            raise UsageError("CXR_QUEUE_URL: set it to the URL of the jobs' queue")
        found = reconcile_inbox(
            ports.store,
            ports.index,
            ports.queue,
            ports.now(),
            after=next_look(ports.store),
            most=MOST_AT_ONCE,
            seconds_left=lambda: context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS,
        )
        note_next_look(ports.store, found.after)
        ports.count("OldestWaitingSeconds", found.oldest_seconds)
        ports.count("Waiting", found.waiting)
        return {"queued": found.queued, "waiting": found.waiting, "oldest_seconds": found.oldest_seconds}
