"""Bring the worklist up to date when a verdict was written or erased, or reviewed."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import telemetry, wiring
from pipeline.errors import IngestFailed
from pipeline.events import Event
from pipeline.intake import record


def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Take S3's notification of the outbox, in any of its shapes.

    From SQS, the messages of rows that could not be written are reported, to be delivered again. For any
    other sender, IngestFailed is raised after all other rows were written.
    """
    with telemetry.invocation(context):
        report = record(event, wiring.ports())
        failed = [outcome for outcome in report.outcomes if outcome.result == "failed"]
        if failed and not report.from_sqs:
            raise IngestFailed(report.outcomes)
    answer: dict[str, Any] = {"recorded": len(report.outcomes) - len(failed)}
    if report.from_sqs:
        answer["batchItemFailures"] = [{"itemIdentifier": id_} for id_ in report.failed_messages]
    return answer
