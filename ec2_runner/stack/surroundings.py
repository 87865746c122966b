"""Look up what the template cannot: a KMS key, whether a bucket has it already, the prefix list of S3."""

import re
from collections.abc import Iterator
from typing import Any, Protocol

from pipeline.aws.clients import Aws
from pipeline.aws.errors import AwsRefused, ask
from pipeline.errors import StackError, StoreError, UsageError

_OPTION = "--parameter KmsKeyArn="
_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:([a-z0-9-]+):\d{12}:key/[A-Za-z0-9-]+")


class _Kms(Protocol):
    """Describe the part of boto3's KMS client that is used here."""

    def describe_key(self, *, KeyId: str) -> dict[str, Any]: ...


def check_key(aws: Aws, bucket: str, given: str) -> None:
    """Raise UsageError when an existing bucket encrypts with a KMS key that KmsKeyArn does not name.

    AWS's own key `aws/s3` needs no permission: its policy lets everybody use it who may use the bucket.
    docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
    """
    key = _default_key(aws, bucket)
    if key is None or key == given:
        return
    if _KEY_ARN.fullmatch(key):
        already = f", not by {given}" if given else ""
        raise UsageError(
            f"the bucket {bucket} is encrypted by a KMS key{already}, and the stack's roles may use it only"
            f" if you name it: add {_OPTION}{key}"
        )
    if not given or ("/" not in key and not given.endswith(f"/{key}")):  # an alias cannot be compared
        raise UsageError(
            f"the bucket {bucket} is encrypted by the KMS key {key}, and the stack's roles may use it only"
            f" if you name its ARN: add {_OPTION} with what"
            f" `aws kms describe-key --key-id {key} --query KeyMetadata.Arn --output text` prints"
        )


def key_notes(aws: Aws, key: str) -> Iterator[str]:
    """Raise UsageError for a key with which S3 cannot encrypt; yield a note where it was not looked up."""
    if not key:
        return
    arn = _KEY_ARN.fullmatch(key)
    if not arn:
        raise UsageError(f"{_OPTION}{key} is not the ARN of a key, such as arn:aws:kms:REGION:ACCOUNT:key/ID")
    if arn[1] != aws.region:
        raise UsageError(
            f"the KMS key {key} is in {arn[1]}, and S3 needs one of the bucket's region, {aws.region}"
        )
    kms: _Kms = aws.client("kms")
    try:
        found = ask("KMS", kms.describe_key, KeyId=key)["KeyMetadata"]
    except StoreError as error:
        if isinstance(error, AwsRefused) and error.code == "NotFoundException":
            raise UsageError(f"there is no KMS key {key}") from error
        yield f"the KMS key {key} was not checked: {error}"
        return
    state, usage, spec = (str(found.get(name)) for name in ("KeyState", "KeyUsage", "KeySpec"))
    if (usage, spec) != ("ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT"):
        raise UsageError(f"the KMS key {key} is for {usage} ({spec}): S3 needs a symmetric encryption key")
    if state != "Enabled":
        raise UsageError(f"the KMS key {key} is in the state {state}: enable it, or name another")


def s3_prefix_list(aws: Aws) -> str:
    """Return the id of the region's list of S3's addresses."""
    name = f"com.amazonaws.{aws.region}.s3"
    look = aws.client("ec2").describe_managed_prefix_lists
    found = ask("EC2", look, Filters=[{"Name": "prefix-list-name", "Values": [name]}])["PrefixLists"]
    if not found:
        raise StackError(
            f"EC2 knows no prefix list {name}, which limits the hosts to S3: name its id with"
            " --parameter S3PrefixList=pl-..."
        )
    return found[0]["PrefixListId"]


def _default_key(aws: Aws, bucket: str) -> str | None:
    """Return the KMS key that encrypts a bucket's new objects; None for S3's keys and AWS's own one."""
    try:
        found = ask("S3", aws.client("s3").get_bucket_encryption, Bucket=bucket)
    except AwsRefused as error:
        if error.code == "ServerSideEncryptionConfigurationNotFoundError":
            return None
        raise
    for rule in found["ServerSideEncryptionConfiguration"]["Rules"]:
        default = rule.get("ApplyServerSideEncryptionByDefault")
        if default and default["SSEAlgorithm"] != "AES256":
            key = default.get("KMSMasterKeyID", "")
            return None if not key or key.endswith("alias/aws/s3") else key
    return None
