"""Look up what the template cannot: the key of a bucket that is there already, and the prefix list of S3."""

import re

from pipeline.aws.clients import Aws
from pipeline.aws.errors import AwsRefused, ask
from pipeline.errors import StackError, UsageError

_OPTION = "--parameter KmsKeyArn="
_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")


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
