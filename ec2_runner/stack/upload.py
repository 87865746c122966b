"""Upload a release to the artifact bucket, from which hosts, Lambda and CloudFormation take what they run.

No function and no host may write there; `prepare_artifacts` closes it to all but the account's deployers.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ec2_runner.stack.cloudformation import StackState
from ec2_runner.stack.release import MANIFEST, Bundle, sha256_of
from pipeline.aws.clients import Aws
from pipeline.aws.errors import AwsRefused, ask
from pipeline.errors import StackError, UsageError
from pipeline.store.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        LifecycleRuleUnionTypeDef,
        OwnershipControlsUnionTypeDef,
        ServerSideEncryptionConfigurationUnionTypeDef,
    )

RELEASES = "releases/"
CURRENT = RELEASES + "current"
OLD_RELEASES = "system/releases/"  # in the bucket of X-rays, where earlier stacks kept them
_PACKAGES, _TEMPLATES = "lambda/", "template/"
DEPLOYED = (RELEASES, _PACKAGES, _TEMPLATES)
_KEPT_DAYS = 30  # of versions that were replaced or deleted
_CODE = "CodeUri: build/lambda"
_NAME = re.compile(r"[0-9]+-[0-9a-f]{64}")  # of a release
_LIFECYCLE: "list[LifecycleRuleUnionTypeDef]" = [
    # By age, S3 could not tell the current release from an old one: `prune` deletes those.
    {
        "ID": "deleted-releases",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": _KEPT_DAYS},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3},
    }
]

Advance = Callable[[int], None]  # takes how many more bytes were sent


def upload_release(s3: "S3Client", bucket: str, release: Bundle, advance: Advance) -> None:
    """Upload a release for the hosts: its files first, then the manifest, `current` last of all."""
    place = _place(release.name)
    for path in (*release_files(release), release.folder / MANIFEST):
        upload(s3, bucket, f"{place}{path.relative_to(release.folder).as_posix()}", path, advance)
    set_current(s3, bucket, release.name)


def set_current(s3: "S3Client", bucket: str, name: str) -> None:
    """Set the release that hosts install at their next start."""
    s3.put_object(Bucket=bucket, Key=CURRENT, Body=f"{name}\n".encode(), ContentType="text/plain")


def current_release(artifacts: S3Store) -> str | None:
    """Return the name of the release that hosts install, if there is one."""
    found = artifacts.get(CURRENT, 100)
    return found[1].decode().strip() if found else None


def prune(artifacts: S3Store, release: Bundle, before: str | None, template: str) -> None:
    """Delete what neither this release nor the one before it needs, once the stack runs this one."""
    places = tuple(_place(name) for name in (release.name, before) if name)
    kept = {CURRENT, _package(release), template.partition(".amazonaws.com/")[2]}
    for info in [info for place in DEPLOYED for info in artifacts.list(place)]:
        if info.key not in kept and not info.key.startswith(places):
            artifacts.delete(info.key)


def released(state: StackState) -> str | None:
    """Return the name of the release of a stack's functions; None where the stack does not name it."""
    name = state.outputs.get("Release", "")
    return name if _NAME.fullmatch(name) else None


def release_files(release: Bundle) -> list[Path]:
    """Return the files that the manifest names."""
    return sorted([*(release.folder / "wheelhouse").iterdir(), *(release.folder / "host").iterdir()])


def upload_artifacts(s3: "S3Client", bucket: str, region: str, release: Bundle, advance: Advance) -> str:
    """Upload the Lambda package and the template that names it; return the template's address."""
    package = _package(release)
    upload(s3, bucket, package, release.package, advance)
    written = release.folder / "template.yaml"
    text = deployable(release.template, f"s3://{bucket}/{package}")
    written.write_text(text, encoding="utf-8")
    key = f"{_TEMPLATES}{sha256_of(written)}.yaml"
    upload(s3, bucket, key, written, advance)
    return f"https://{bucket}.s3.{region}.amazonaws.com/{key}"


def deployable(template: Path, package: str) -> str:
    """Return the template's text with the address of the functions' package."""
    text = template.read_text(encoding="utf-8")
    if text.count(_CODE) != 1:
        raise StackError(f"{template.name} has to say `{_CODE}` exactly once")
    return text.replace(_CODE, f"CodeUri: {package}")


def upload(s3: "S3Client", bucket: str, key: str, path: Path, advance: Advance) -> None:
    """Upload a file, unless the object exists with the same content."""
    digest, size = sha256_of(path), path.stat().st_size
    if _digest_of(s3, bucket, key) == (digest, size):
        advance(size)
        return
    extra = {"Metadata": {"sha256": digest}}
    s3.upload_file(str(path), bucket, key, ExtraArgs=extra, Callback=advance)


def prepare_artifacts(aws: Aws, bucket: str) -> None:
    """Create the artifact bucket, unless this account has it, and set what protects it."""
    s3 = aws.client("s3")
    if not has_bucket(aws, bucket):
        if aws.region == "us-east-1":
            s3.create_bucket(Bucket=bucket)
        else:
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": aws.region})  # type: ignore[typeddict-item]  # the stubs lack newer regions
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        },
    )
    owner: OwnershipControlsUnionTypeDef = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=owner)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    encrypted: ServerSideEncryptionConfigurationUnionTypeDef = {
        "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
    }
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=encrypted)
    s3.put_bucket_policy(
        Bucket=bucket, Policy=json.dumps(_tls_only(f"arn:{s3.meta.partition}:s3:::{bucket}"))
    )
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": _LIFECYCLE})


def has_bucket(aws: Aws, bucket: str) -> bool:
    """Return whether this account has a bucket in this region; raise UsageError where it cannot be used."""
    try:
        found = ask("S3", aws.client("s3").head_bucket, Bucket=bucket, ExpectedBucketOwner=aws.account)
    except AwsRefused as error:
        code = error.code
        if code in ("404", "NoSuchBucket"):
            return False
        if code in ("403", "AccessDenied"):  # S3 gives no reason: this answer has no body
            raise UsageError(
                f"S3 forbids the bucket {bucket}: either another account has it, then name another with"
                " --bucket; or it is yours, and these credentials lack `s3:ListBucket` on it, or its policy"
                " denies them"
            ) from error
        if code in ("301", "PermanentRedirect"):
            raise UsageError(f"the bucket {bucket} is in another region: name that with --region") from error
        raise
    region = found.get("BucketRegion") or aws.region  # boto3 follows the redirect to another region
    if region != aws.region:
        raise UsageError(
            f"the bucket {bucket} is in {region}, not in {aws.region}, and a stack needs one in its own"
            f" region: add --region {region}, or name another bucket"
        )
    return True


def delete_if_empty(s3: "S3Client", bucket: str) -> bool:
    """Delete a bucket that holds nothing, no former version either; return whether it did."""
    try:
        ask("S3", s3.delete_bucket, Bucket=bucket)
    except AwsRefused as error:
        if error.code == "BucketNotEmpty":
            return False
        raise
    return True


def _tls_only(bucket: str) -> dict[str, object]:
    """Return a policy that denies requests without TLS 1.2, like that of the bucket in template.yaml."""
    conditions = {"Bool": {"aws:SecureTransport": "false"}, "NumericLessThan": {"s3:TlsVersion": "1.2"}}
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [bucket, f"{bucket}/*"]}
    statements = [{**deny, "Condition": {kind: keys}} for kind, keys in conditions.items()]
    return {"Version": "2012-10-17", "Statement": statements}


def total_size(paths: Iterable[Path]) -> int:
    """Return the total size of files in bytes."""
    return sum(path.stat().st_size for path in paths)


def _place(name: str) -> str:
    return f"{RELEASES}{name}/"


def _package(release: Bundle) -> str:
    return f"{_PACKAGES}{sha256_of(release.package)}.zip"


def _digest_of(s3: "S3Client", bucket: str, key: str) -> tuple[str, int] | None:
    try:
        found = ask("S3", s3.head_object, Bucket=bucket, Key=key)
    except AwsRefused as error:
        if error.code in ("404", "NoSuchKey"):
            return None
        raise
    return found["Metadata"].get("sha256", ""), found["ContentLength"]
