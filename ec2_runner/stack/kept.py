"""Look after a bucket that is there already, whose settings the stack leaves alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.aws.errors import AwsRefused, ask
from pipeline.errors import StoreError, UsageError
from pipeline.names import INBOX, OUTBOX

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PREVIEWS = OUTBOX + ".previews/"
_OPTIONS = {  # parameters of the template for a bucket that it creates, and where else they may be given
    "RetentionDays": "--retention-days, retention_days",
    "PreviewDays": "the parameter",
    "PageOrigins": "the parameter",
}
_UNSET = ("NoSuchLifecycleConfiguration", "NoSuchCORSConfiguration")


def check_settings(s3: "S3Client", bucket: str, asked: Mapping[str, str]) -> None:
    """Raise UsageError where a parameter asks for a setting that the bucket does not have already."""
    for name, option in _OPTIONS.items():
        if name in asked and not _has(s3, bucket, name, asked[name]):
            raise UsageError(
                f"{name}={asked[name]} would have no effect: the bucket {bucket} was there before the stack,"
                f" which leaves its settings alone. Change the bucket itself, or leave out {option}"
            )


def kept_note(bucket: str) -> str:
    """Return what a person should know about such a bucket."""
    names = ", ".join(_OPTIONS)
    return f"the bucket {bucket} is there already and keeps its settings: {names} do not apply to it"


def _has(s3: "S3Client", bucket: str, name: str, wanted: str) -> bool:
    """Return whether a bucket has a setting; False where that may not be looked up."""
    try:
        if name == "PageOrigins":
            return {origin.strip() for origin in wanted.split(",")} <= _origins(s3, bucket)
        days = _days(s3, bucket)
        prefixes = (_PREVIEWS,) if name == "PreviewDays" else (INBOX, OUTBOX)
        return all(days.get(prefix, 0) == int(wanted) for prefix in prefixes)
    except (StoreError, ValueError):
        return False


def _days(s3: "S3Client", bucket: str) -> dict[str, int]:
    """Return after how many days objects are deleted, by prefix."""
    try:
        rules = ask("S3", s3.get_bucket_lifecycle_configuration, Bucket=bucket)["Rules"]
    except AwsRefused as error:
        if error.code in _UNSET:
            return {}
        raise
    active = [rule for rule in rules if rule["Status"] == "Enabled"]
    return {
        rule.get("Filter", {}).get("Prefix", rule.get("Prefix", "")): rule["Expiration"]["Days"]
        for rule in active
        if "Days" in rule.get("Expiration", {})
    }


def _origins(s3: "S3Client", bucket: str) -> set[str]:
    """Return the addresses of pages that may post to a bucket."""
    try:
        rules = ask("S3", s3.get_bucket_cors, Bucket=bucket)["CORSRules"]
    except AwsRefused as error:
        if error.code in _UNSET:
            return set()
        raise
    return {origin for rule in rules if "POST" in rule["AllowedMethods"] for origin in rule["AllowedOrigins"]}
