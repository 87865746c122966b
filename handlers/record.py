"""A verdict was written, or erased: bring the worklist up to date."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import telemetry, wiring
from pipeline.events import Event
from pipeline.intake import record


def handler(event: Event, context: LambdaContext) -> dict[str, int]:
    """Take S3's notification of the outbox, in any of its shapes.

    A failure is raised, and the event comes again.
    """
    with telemetry.invocation(context):
        return {"recorded": record(event, wiring.ports())}
