"""Bring the verdict of a changed inbox object up to date."""

from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from handlers import telemetry, wiring
from pipeline.errors import IngestFailed
from pipeline.events import Event
from pipeline.intake import Report, ingest

# Seconds before a failed message comes again: after its first delivery, and so on. SQS by itself would wait
# for six times the function's timeout, which is meant for functions that died.
_PAUSES = (20, 60, 240, 600)


def handler(event: Event, context: LambdaContext) -> dict[str, Any]:
    """Take S3's notification in any of its shapes; send all its images to the host as one batch.

    From SQS, the messages of failed images are reported, to be delivered again. For any other sender,
    IngestFailed is raised.
    """
    with telemetry.invocation(context):
        report = ingest(event, wiring.ports())
        answer = _partial_response(event, report, context)
        if answer is None and any(outcome.result == "failed" for outcome in report.outcomes):
            raise IngestFailed(report.outcomes)
    outcomes = [
        {"key": outcome.key, "result": outcome.result, "passes": outcome.passes}
        for outcome in report.outcomes
    ]
    return {**(answer or {}), "outcomes": outcomes, "ignored": [ignored.reason for ignored in report.ignored]}


def _partial_response(event: Event, report: Report, context: LambdaContext) -> dict[str, Any] | None:
    """Return the messages that SQS should keep; None when the event did not come from SQS."""
    if not report.from_sqs:
        return None

    def finish(record: SQSRecord) -> None:
        if record.message_id in report.failed_messages:
            raise IngestFailed(report.outcomes)

    processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
    answer: dict[str, Any] = dict(process_partial_response(event, finish, processor, context))
    if queue := wiring.ports().queue:
        failed = report.failed_messages
        queue.hasten(
            {
                record["receiptHandle"]: _pause(record)
                for record in event["Records"]
                if record["messageId"] in failed and "receiptHandle" in record
            }
        )
    return answer


def _pause(record: Event) -> float:
    received = int(record.get("attributes", {}).get("ApproximateReceiveCount", 1))
    return _PAUSES[min(received, len(_PAUSES)) - 1]
