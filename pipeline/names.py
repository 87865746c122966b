"""The names of the objects: where the verdict and the preview of an inbox key stand."""

import hashlib
import hmac
from fnmatch import fnmatch

INBOX, OUTBOX = "inbox/", "outbox/"
UNUSABLE = OUTBOX + "name-not-usable/"
_PREVIEWS = OUTBOX + ".previews/"
_RESERVED = ("name-not-usable/", ".previews/")
_UNFINISHED = ("*.part", "*.partial", "*.tmp", "*.crdownload", "*~", "thumbs.db", "desktop.ini")
MAX_KEY_BYTES = 1024  # of an S3 key: docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
MAX_NAME_BYTES = 255  # of one part of a path: ext4, APFS, NTFS. Kept on S3 too, so that a bucket fits a disk


def verdict_key(inbox_key: str) -> str:
    """Where the verdict of an inbox key stands; under a hash when the plain name cannot be used."""
    if name_problem(inbox_key):
        return f"{UNUSABLE}{_digest(inbox_key)}.json"
    return f"{OUTBOX}{inbox_key.removeprefix(INBOX)}.json"


def inbox_key(verdict_key: str) -> str:
    """The inbox key of a verdict; not of one under `UNUSABLE`, whose name is a hash."""
    return INBOX + verdict_key.removeprefix(OUTBOX).removesuffix(".json")


def has_place(key: str, inbox_key: str) -> bool:
    """Whether the verdict of `inbox_key` belongs at the outbox key `key`.

    A name that is not Unicode stands in its verdict as `printable` wrote it, and cannot be held against it.
    """
    if not inbox_key.startswith(INBOX):
        return False
    return key == verdict_key(inbox_key) or (key.startswith(UNUSABLE) and "\\" in inbox_key)


def preview_key(inbox_key: str, etag: str) -> str:
    """Where the preview of one version of an inbox object stands:
    its name says of which bytes it was made.
    """
    return f"{preview_prefix(inbox_key)}{etag}.jpg"


def preview_prefix(inbox_key: str) -> str:
    """The folder of all the previews of an inbox key."""
    return f"{_PREVIEWS}{_digest(inbox_key)}/"


def name_problem(inbox_key: str) -> str | None:
    """Why no verdict can stand beside this name, in words for the
    person who chose it; None when it is fine.
    """
    rest = inbox_key.removeprefix(INBOX)
    *folders, name = rest.split("/")
    try:
        encoded = rest.encode()
    except UnicodeEncodeError:
        return "The name is not valid Unicode."
    longest = max(len(part.encode()) for part in (*folders, f"{name}.json"))
    if longest > MAX_NAME_BYTES or len(encoded) > MAX_KEY_BYTES - len(f"{OUTBOX}.json"):
        return "The name is too long."
    if any(part in ("", ".", "..") for part in (*folders, name)):
        return "The name has a part that is empty, `.` or `..`: no folder can hold it."
    if rest.startswith(_RESERVED) or any(folder.endswith(".json") for folder in folders):
        return "The folder's name collides with a name that the outbox needs."
    return None


def is_unfinished(inbox_key: str) -> bool:
    """Whether a name says that its file is hidden, or still being written or downloaded: it is not judged."""
    *folders, name = inbox_key.removeprefix(INBOX).split("/")
    hidden = any(part.startswith(".") for part in (*folders, name))
    return hidden or any(fnmatch(name.lower(), pattern) for pattern in _UNFINISHED)


def is_verdict(key: str) -> bool:
    """Whether a key is that of a verdict."""
    return key.startswith(OUTBOX) and key.endswith(".json")


def printable(key: str) -> str:
    """A key as text that every encoder takes: bytes that are no UTF-8 become escapes."""
    return key.encode("utf-8", "backslashreplace").decode()


def key_hash(key: str, secret: str) -> str:
    """What stands in logs for a key, which may be a patient's name:
    equal for equal keys, and not to be guessed.
    """
    return hmac.new(secret.encode(), key.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
