"""Write a `failed` verdict for the objects of an event whose last delivery failed; none disappears."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import telemetry, wiring
from pipeline.events import Event
from pipeline.intake import dead_letter


def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Take the events that `ingest` could not handle."""
    with telemetry.invocation(context):
        outcomes = dead_letter(event, wiring.ports())
    return {"outcomes": [{"key": outcome.key, "result": outcome.result} for outcome in outcomes]}
