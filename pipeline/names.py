"""Name the objects: where the verdict, the previews and the reviews of an inbox key stand."""

import fnmatch
import hashlib
import hmac
import re

INBOX, OUTBOX = "inbox/", "outbox/"
UNUSABLE = OUTBOX + "name-not-usable/"
PREVIEWS = OUTBOX + ".previews/"
REVIEWS = OUTBOX + ".reviews/"
PAGES = "system/pages.json"  # which programs serve the bucket
BOOKMARK = "system/reconcile.json"  # where the last look at a part of the inbox ended: a key
_RESERVED = ("name-not-usable/", ".previews/", ".reviews/")
# Endings, after a dot, of files that are being written, downloaded or synchronised.
_UNFINISHED = """
    part partial tmp temp filepart upload uploading incomplete inprogress unfinished cyberduckpart swp swo swx
    crdownload download opdownload ucdownload fdmdownload gdownload downloading aria2 aria2__temp xltd
    !ut ut! !qb !bt bc! jc! ob! fb! !sync !part bts rslsc rslsv lftp-pget-status ffs_tmp ffs_lock kate-swp
    gstmp azdownload crswap dlpart dtapart dctmp td getright dap mega ytdl
"""
_ENDINGS = frozenset(_UNFINISHED.split())
_FOLDER_ENDINGS = frozenset({"download", "cyberduckpart"})  # folders that hold a partial file
# Hidden files and folders, and those of editors, sync tools, operating systems and their trash.
_KEPT_BACK = """
    .* *~ ~$* #*# *.sb-????????-?????? *___jb_tmp___ *___jb_old___ *.davfs.tmp* ~syncthing~* pureftpd-upload*
    thumbs.db ehthumbs*.db desktop.ini $recycle.bin recycler system?volume?information $extend
    found.[0-9][0-9][0-9] __macosx network?trash?folder temporary?items thevolumesettingsfolder
    lost+found #recycle #snapshot ~snapshot network?recycle?bin* trashbox files_trashbin files_versions
    @eadir @tmp @recycle @recently-snapshot @snapshot @sharesnap @sharebin @__thumb @gmt-* @syno* @appstore
    @appdata @apphome @appconf @apptemp @appshare @database @autoupdate @download @s2s @img_bkp_cache @spool
    @quarantine @transcode *@synoeastream *@synoresource _gsdata_
    recycled recycle.bin deleted?items dfsrprivate ntfrs_preexisting___see_eventlog lost.dir
    *.td.cfg *.part-frag[0-9]*
"""
_PATTERNS = [*_KEPT_BACK.split(), "icon\r"]
# In turn: a deleted file that the client of a share still has open; a numbered temporary file; a download of
# the AWS command line, with eight hexadecimal digits (a date is a person's); a stream, copied as a file.
_EXPRESSIONS = (
    r"cifs\d+\Z",
    r".*\.tmp[-._]?\d+\Z",
    r".*\.(?:jpe?g|png|gif|bmp|tiff?|webp|dcm|dicom)\.(?!\d+\Z)[0-9a-f]{8}\Z",
    ".*[:\uf022\uf03a](?:zone\\.identifier|smartscreen|encryptable|afp_|com\\.apple\\.)",
)
_IS_KEPT_BACK = re.compile("|".join((*map(fnmatch.translate, _PATTERNS), *_EXPRESSIONS)))
# Characters that move a terminal's cursor, colour it, or turn the direction of its text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
MAX_KEY_BYTES = 1024  # limit of an S3 key: docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
# Limit of one part of a path on ext4, APFS and NTFS; kept on S3, too, so that a bucket fits a disk.
MAX_NAME_BYTES = 255


def verdict_key(inbox_key: str) -> str:
    """Return the key of the verdict of an inbox key: under a hash where the plain name cannot be used."""
    if name_problem(inbox_key):
        return f"{UNUSABLE}{_digest(inbox_key)}.json"
    return f"{OUTBOX}{inbox_key.removeprefix(INBOX)}.json"


def inbox_key(verdict_key: str) -> str:
    """Return the inbox key of a verdict that is not under `UNUSABLE`, whose names are hashes."""
    return INBOX + verdict_key.removeprefix(OUTBOX).removesuffix(".json")


def has_place(key: str, inbox_key: str) -> bool:
    """Return whether the verdict of `inbox_key` belongs at the outbox key `key`.

    A name that is not Unicode appears in its verdict as `printable` wrote it, so its place cannot be checked.
    """
    if not inbox_key.startswith(INBOX):
        return False
    return key == verdict_key(inbox_key) or (key.startswith(UNUSABLE) and "\\" in inbox_key)


def preview_key(inbox_key: str, etag: str) -> str:
    """Return the key of the preview of one version of an inbox object; its name holds the ETag."""
    return f"{preview_prefix(inbox_key)}{etag}.jpg"


def preview_prefix(inbox_key: str) -> str:
    """Return the folder of all the previews of an inbox key."""
    return f"{PREVIEWS}{_digest(inbox_key)}/"


def review_prefix(inbox_key: str, verdict_etag: str = "") -> str:
    """Return the folder of all the reviews of an inbox key, or of those of one of its verdicts."""
    folder = f"{REVIEWS}{_digest(inbox_key)}/"
    return f"{folder}{verdict_etag}/" if verdict_etag else folder


def is_review(key: str) -> bool:
    """Return whether a key is the key of a review."""
    return key.startswith(REVIEWS) and key.endswith(".json")


def name_problem(inbox_key: str) -> str | None:
    """Return why no verdict can stand beside this name, for the person who chose it; None when it is fine."""
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
    """Return whether a name belongs to a hidden, unfinished, system or deleted file.

    Such a file is judged only where a person names it.
    """
    *folders, name = inbox_key.removeprefix(INBOX).lower().split("/")
    return (
        any(_IS_KEPT_BACK.match(part) for part in (*folders, name))
        or _ending(name) in _ENDINGS
        or any(_ending(folder) in _FOLDER_ENDINGS for folder in folders)
    )


def _ending(part: str) -> str:
    return part.rpartition(".")[2] if "." in part else ""


def is_verdict(key: str) -> bool:
    """Return whether a key is the key of a verdict."""
    return key.startswith(OUTBOX) and key.endswith(".json") and not key.startswith(REVIEWS)


def printable(key: str) -> str:
    """Return a key as text that every encoder accepts: bytes that are not UTF-8 become escapes."""
    return key.encode("utf-8", "backslashreplace").decode()


def for_terminal(text: str) -> str:
    """Return a name, or a sentence with one, safe to print: control characters of terminals are escaped."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), printable(text))


def key_hash(key: str, secret: str) -> str:
    """Return the keyed hash that logs show for a key, which may be a patient's name; nobody can guess it."""
    return hmac.new(secret.encode(), key.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


def report_id(inbox_key: str) -> str:
    """Return the name under which other systems know the report of an inbox key; always the same."""
    return _digest(inbox_key)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
