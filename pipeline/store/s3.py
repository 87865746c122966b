"""Store objects in a bucket.

S3 keeps the promises of `ports.Store` itself:
docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from pipeline.aws.errors import AwsRefused, ask, translated
from pipeline.errors import ConditionFailed, ObjectTooLarge, StoreError
from pipeline.records import Job, ObjectInfo, Ticket

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        HeadObjectOutputTypeDef,
        ObjectIdentifierTypeDef,
    )

_T = TypeVar("_T")
_MISSING = {"404", "NoSuchKey", "NotFound"}
_TICKET_SECONDS = 300
_CONDITION = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


class S3Store:
    """Store objects in the bucket `bucket`, through a boto3 S3 client."""

    def __init__(self, bucket: str, client: "S3Client") -> None:
        self.bucket = bucket
        self._client = client

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's description, or None."""
        answer = _ask(self._client.head_object, Bucket=self.bucket, Key=key)
        return _info(key, answer) if answer else None

    def get(self, key: str, limit: int) -> tuple[ObjectInfo, bytes] | None:
        """Return the object with its bytes, or None.

        Raises ObjectTooLarge, without reading it, when the object has more than `limit` bytes.
        """
        answer = _ask(self._client.get_object, Bucket=self.bucket, Key=key)
        if answer is None:
            return None
        info = _info(key, answer)
        try:
            if info.size > limit:
                raise ObjectTooLarge(info)
            with translated("the bucket"):
                return info, answer["Body"].read()
        finally:
            answer["Body"].close()

    def put(self, key: str, data: bytes, expected: str | None) -> str:
        """Write on condition, see `ports.Store`; return the new ETag."""
        condition = {"IfMatch": f'"{expected}"'} if expected else {"IfNoneMatch": "*"}
        return self._put(key, data, condition)

    def put_file(self, key: str, path: Path) -> None:
        """Write a file as a new object, see `ports.Landing`; it is not read into memory."""
        with path.open("rb") as file:
            self._put(key, file, {"IfNoneMatch": "*"})

    def _put(self, key: str, data: bytes | BinaryIO, condition: dict[str, str]) -> str:
        content_type = "application/json" if key.endswith(".json") else "application/octet-stream"
        request = {"Bucket": self.bucket, "Key": key, "Body": data, "ContentType": content_type, **condition}
        answer = _ask(self._client.put_object, **request)
        if answer is None:
            raise ConditionFailed("the object to be replaced is gone")
        return str(answer["ETag"]).strip('"')

    @property
    def origin(self) -> str:
        """Return the bucket's own origin, to which browsers post."""
        url = urlsplit(self.presign_post("inbox/", 1).url)
        return f"{url.scheme}://{url.netloc}"

    def presign_post(self, key: str, max_bytes: int) -> Ticket:
        """Return the permission to write this one object, see `ports.Tickets`.

        S3 checks no condition on a post: the caller checks first whether the object exists.

        docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
        """
        sign = self._client.generate_presigned_post
        sizes = ["content-length-range", 1, max_bytes]
        made = ask(
            "the bucket",
            sign,
            Bucket=self.bucket,
            Key=key,
            Conditions=[sizes],
            ExpiresIn=_TICKET_SECONDS,
        )
        return Ticket(**made)

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""
        _ask(self._client.delete_object, Bucket=self.bucket, Key=key)

    def names(self, prefix: str, after: str = "") -> Iterator[Job]:
        """Yield all objects under a prefix, see `ports.FullStore`, with the ETags of the listing."""
        return (Job(info.key, info.etag) for info in self.list(prefix, after))

    def holds(self, key: str) -> bool:
        """Return whether there is a version or a delete marker of the object, see `ports.FullStore`."""
        return any(self._versions(key))

    def purge(self, key: str) -> int:
        """Remove every version and every delete marker, see `ports.Store`."""
        return sum(map(self._delete_versions, self._versions(key)))

    def empty(self, prefix: str) -> int:
        """Remove every version of every object under a prefix; return how many there were."""
        return sum(map(self._delete_versions, self._versions_under(prefix)))

    def _versions(self, key: str) -> "Iterator[list[ObjectIdentifierTypeDef]]":
        """Yield the versions and delete markers of an object, or of a folder's objects, some at a time."""
        for found in self._versions_under(key):
            yield [version for version in found if version["Key"] == key or key.endswith("/")]

    def _versions_under(self, prefix: str) -> "Iterator[list[ObjectIdentifierTypeDef]]":
        request: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix}
        while True:
            page = ask("the bucket", self._client.list_object_versions, **request)
            yield [
                {"Key": item["Key"], "VersionId": item["VersionId"]}
                for item in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
            ]
            if not page.get("IsTruncated"):
                return
            request |= {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def _delete_versions(self, found: "list[ObjectIdentifierTypeDef]") -> int:
        if found:
            request: dict[str, Any] = {"Bucket": self.bucket, "Delete": {"Objects": found, "Quiet": True}}
            errors = ask("the bucket", self._client.delete_objects, **request).get("Errors")
            if errors:
                raise StoreError(f"the bucket kept {len(errors)} versions: {errors[0].get('Code')}")
        return len(found)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects under a prefix, in the order of their keys, see `ports.FullStore`."""
        request: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix}
        if after:
            request["StartAfter"] = after
        while True:
            page = ask("the bucket", self._client.list_objects_v2, **request)
            for item in page.get("Contents", []):
                yield ObjectInfo(item["Key"], item["ETag"].strip('"'), item["Size"], item["LastModified"])
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def jobs(self, prefix: str) -> Iterator[Job]:
        """Yield the jobs under a prefix, see `ports.ArchiveSource`, with the listing's ETags."""
        return (Job(info.key, info.etag) for info in self.list(prefix) if not info.key.endswith("/"))


def _ask(call: Callable[..., _T], **request: Any) -> _T | None:
    """Call S3; return None for a missing object."""
    try:
        return ask("the bucket", call, **request)
    except AwsRefused as error:
        if error.code in _MISSING:
            return None
        if error.code in _CONDITION:
            raise ConditionFailed("the object is not in the expected state") from error
        raise


def _info(key: str, answer: "HeadObjectOutputTypeDef | GetObjectOutputTypeDef") -> ObjectInfo:
    return ObjectInfo(
        key,
        answer["ETag"].strip('"'),
        answer["ContentLength"],
        answer["LastModified"],
        answer.get("VersionId"),
    )
