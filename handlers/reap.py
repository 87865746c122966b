"""On a schedule: stop the host that idles, end one that nobody owns."""

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import telemetry, wiring
from pipeline.events import Event


def handler(event: Event, context: LambdaContext) -> dict[str, str]:
    """Look at the stack's instances; returns what was done, by instance id."""
    with telemetry.invocation(context):
        return dict(wiring.reaper().reap())
