"""Stop hosts that are idle and end those that nobody owns, on a schedule."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import telemetry, wiring
from pipeline.events import Event


def handler(event: Event, context: LambdaContext) -> dict[str, str]:
    """Look at the stack's instances; return the actions taken, by instance id."""
    with telemetry.invocation(context):
        return dict(wiring.reaper().reap())
