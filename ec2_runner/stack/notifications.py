"""The notifications of a bucket that other things use too: ours are added, and taken out, beside theirs."""

from typing import Any

from botocore.exceptions import ClientError

from pipeline.errors import StackError
from pipeline.names import INBOX, OUTBOX

_EVENTS = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*")


def add_notifications(s3: Any, bucket: str, jobs: str, verdicts: str) -> None:
    """Have the bucket tell our two queues (their ARNs) what changes; StackError if others claim it."""
    ours = [_entry(jobs, INBOX), _entry(verdicts, OUTBOX, ".json")]
    try:
        _replace(s3, bucket, {jobs, verdicts}, ours)
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidArgument":
            raise
        raise StackError(
            f"the bucket {bucket} does not take our notifications ({error.response['Error']['Message']}):"
            f" another one of it is about {INBOX} or {OUTBOX}; remove that, or use another bucket"
        ) from error


def remove_notifications(s3: Any, bucket: str, queues: set[str]) -> None:
    """Take the notifications to our queues (their ARNs) out."""
    _replace(s3, bucket, queues, [])


def _replace(s3: Any, bucket: str, queues: set[str], ours: list[dict[str, Any]]) -> None:
    """S3 knows only the whole configuration: what goes to other places is written back as it is."""
    before = s3.get_bucket_notification_configuration(Bucket=bucket)
    before.pop("ResponseMetadata", None)
    entries = before.get("QueueConfigurations", [])
    after = [entry for entry in entries if entry["QueueArn"] not in queues] + ours
    if after == entries:
        return
    changed = {**before, "QueueConfigurations": after}
    if not after:
        del changed["QueueConfigurations"]
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration=changed,
        SkipDestinationValidation=not ours,  # a broken one of somebody else does not keep us from leaving
    )


def _entry(queue: str, prefix: str, suffix: str = "") -> dict[str, Any]:
    rules = [{"Name": "prefix", "Value": prefix}]
    if suffix:
        rules.append({"Name": "suffix", "Value": suffix})
    return {
        "Id": f"cxr-inbox-{prefix.strip('/')}",
        "QueueArn": queue,
        "Events": list(_EVENTS),
        "Filter": {"Key": {"FilterRules": rules}},
    }
