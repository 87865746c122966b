"""Upload a release: to the bucket for the hosts, to an artifact bucket for CloudFormation."""

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

RELEASES = "system/releases/"
CURRENT = RELEASES + "current"
_CODE = "CodeUri: build/lambda"
_NUMBER = "RELEASE-NUMBER"  # value of the output Release

Advance = Callable[[int], None]  # takes how many more bytes were sent


def upload_release(s3: "S3Client", bucket: str, release: Bundle, advance: Advance) -> None:
    """Upload a release to the hosts' bucket: its files first, then the manifest, `current` last of all."""
    place = f"{RELEASES}{release.number}/"
    for path in (*release_files(release), release.folder / MANIFEST):
        upload(s3, bucket, f"{place}{path.relative_to(release.folder).as_posix()}", path, advance)
    set_current(s3, bucket, release.number)


def set_current(s3: "S3Client", bucket: str, number: int) -> None:
    """Set the release that hosts install at their next start."""
    s3.put_object(Bucket=bucket, Key=CURRENT, Body=f"{number}\n".encode(), ContentType="text/plain")


def current_release(store: S3Store) -> int | None:
    """Return the release that hosts install, if there is one."""
    found = store.get(CURRENT, 100)
    return int(found[1]) if found else None


def released(state: StackState) -> int | None:
    """Return the release of a stack's functions; None where the stack does not name it."""
    number = state.outputs.get("Release", "")
    return int(number) if number.isdecimal() else None


def release_files(release: Bundle) -> list[Path]:
    """Return the files that the manifest names."""
    return sorted([*(release.folder / "wheelhouse").iterdir(), *(release.folder / "host").iterdir()])


def upload_artifacts(s3: "S3Client", bucket: str, region: str, release: Bundle, advance: Advance) -> str:
    """Upload the Lambda package and the template that names it; return the template's address."""
    package = f"lambda/{sha256_of(release.package)}.zip"
    upload(s3, bucket, package, release.package, advance)
    written = release.folder / "template.yaml"
    text = deployable(release.template, f"s3://{bucket}/{package}", release.number)
    written.write_text(text, encoding="utf-8")
    key = f"template/{sha256_of(written)}.yaml"
    upload(s3, bucket, key, written, advance)
    return f"https://{bucket}.s3.{region}.amazonaws.com/{key}"


def deployable(template: Path, package: str, number: int) -> str:
    """Return the template's text with the address of the functions' package and the release's number."""
    text = template.read_text(encoding="utf-8")
    for word, value in ((_CODE, f"CodeUri: {package}"), (_NUMBER, f'"{number}"')):
        if text.count(word) != 1:
            raise StackError(f"{template.name} has to say `{word}` exactly once")
        text = text.replace(word, value)
    return text


def upload(s3: "S3Client", bucket: str, key: str, path: Path, advance: Advance) -> None:
    """Upload a file, unless the object exists with the same content."""
    digest, size = sha256_of(path), path.stat().st_size
    if _digest_of(s3, bucket, key) == (digest, size):
        advance(size)
        return
    extra = {"Metadata": {"sha256": digest}}
    s3.upload_file(str(path), bucket, key, ExtraArgs=extra, Callback=advance)


def ensure_bucket(aws: Aws, bucket: str) -> None:
    """Create a private bucket, unless this account has it."""
    if has_bucket(aws, bucket):
        return
    s3 = aws.client("s3")
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


def total_size(paths: Iterable[Path]) -> int:
    """Return the total size of files in bytes."""
    return sum(path.stat().st_size for path in paths)


def _digest_of(s3: "S3Client", bucket: str, key: str) -> tuple[str, int] | None:
    try:
        found = ask("S3", s3.head_object, Bucket=bucket, Key=key)
    except AwsRefused as error:
        if error.code in ("404", "NoSuchKey"):
            return None
        raise
    return found["Metadata"].get("sha256", ""), found["ContentLength"]
