"""Add our notifications to a bucket, and remove them, without touching those of its other users."""

from typing import TYPE_CHECKING, cast

from pipeline.aws.errors import AwsRefused, translated
from pipeline.errors import StackError
from pipeline.names import INBOX, OUTBOX

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import EventType
    from mypy_boto3_s3.type_defs import (
        FilterRuleTypeDef,
        NotificationConfigurationTypeDef,
        QueueConfigurationTypeDef,
    )

_EVENTS: "list[EventType]" = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"]


def add_notifications(s3: "S3Client", bucket: str, jobs: str, verdicts: str) -> None:
    """Have the bucket report changes to our two queues (their ARNs); raise StackError if others do."""
    ours = [_entry(jobs, INBOX), _entry(verdicts, OUTBOX, ".json")]
    try:
        with translated("S3"):
            _replace(s3, bucket, {jobs, verdicts}, ours)
    except AwsRefused as error:
        if error.code != "InvalidArgument":
            raise
        raise StackError(
            f"the bucket {bucket} refused our notifications ({error.reason}):"
            f" another notification covers {INBOX} or {OUTBOX}; remove that, or use another bucket"
        ) from error


def remove_notifications(s3: "S3Client", bucket: str, queues: set[str]) -> None:
    """Remove the notifications to our queues (their ARNs)."""
    _replace(s3, bucket, queues, [])


def _replace(s3: "S3Client", bucket: str, queues: set[str], ours: "list[QueueConfigurationTypeDef]") -> None:
    """Replace our part of the configuration, and write the rest back: S3 knows only the whole of it."""
    found = s3.get_bucket_notification_configuration(Bucket=bucket)
    before = cast("NotificationConfigurationTypeDef", {**found})
    before.pop("ResponseMetadata", None)  # type: ignore[typeddict-item]  # botocore's, not S3's
    entries = before.get("QueueConfigurations", [])
    after = [entry for entry in entries if entry["QueueArn"] not in queues] + ours
    if after == entries:
        return
    changed: NotificationConfigurationTypeDef = {**before, "QueueConfigurations": after}
    if not after:
        del changed["QueueConfigurations"]
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration=changed,
        SkipDestinationValidation=not ours,  # a broken one of others must not keep ours from being removed
    )


def _entry(queue: str, prefix: str, suffix: str = "") -> "QueueConfigurationTypeDef":
    rules: list[FilterRuleTypeDef] = [{"Name": "prefix", "Value": prefix}]
    if suffix:
        rules.append({"Name": "suffix", "Value": suffix})
    return {
        "Id": f"cxr-inbox-{prefix.strip('/')}",
        "QueueArn": queue,
        "Events": _EVENTS,
        "Filter": {"Key": {"FilterRules": rules}},
    }
