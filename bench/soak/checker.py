"""Check an inbox and its outbox after a soak, knowing nothing but the two.

Nothing of the project is imported: what is right is written down here a second time, from docs/using.md and
docs/verdict.schema.json. Only the label is asked of the project, of `cxr classify` in a new process.
"""

import hashlib
import io
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from jsonschema import Draft202012Validator
from PIL import Image

INBOX, OUTBOX, PREVIEWS = "inbox/", "outbox/", "outbox/.previews/"
_SCHEMA = Path(__file__).parents[2] / "docs" / "verdict.schema.json"
_JUDGED_AGAIN = 200  # objects whose label is asked again
_NEAR = 0.0002  # of P, which verdicts round
_SEED = 3
HARM = ("lost", "stale", "doubled", "damaged", "wrong", "leaked")


class Objects(Protocol):
    """Describe a store as the checker sees it."""

    def keys(self, prefix: str) -> Iterable[str]:
        """Return all keys that begin with a prefix."""

    def read(self, key: str) -> bytes:
        """Return the bytes of an object."""

    def etag(self, key: str) -> str:
        """Return the ETag of an object; `keys` has returned the key before."""

    def versions(self, key: str) -> Iterable[bytes]:
        """Return the earlier contents of an object and its last, in order, as far as they are kept."""


class Folder:
    """Read the objects of a folder; it keeps no earlier contents."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keys(self, prefix: str) -> Iterator[str]:
        """Return all keys that begin with a prefix."""
        for path in (self._root / prefix).rglob("*"):
            if path.is_file():
                yield path.relative_to(self._root).as_posix()

    def read(self, key: str) -> bytes:
        """Return the bytes of a file."""
        return (self._root / key).read_bytes()

    def etag(self, key: str) -> str:
        """Return the MD5 of a file."""
        return hashlib.md5(self.read(key), usedforsecurity=False).hexdigest()

    def versions(self, key: str) -> Iterable[bytes]:
        """Return the one content that there is."""
        return [self.read(key)]


@dataclass
class Checked:
    """Count what was found; each finding names a key."""

    objects: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)  # by status, of objects that exist
    orphans: int = 0  # verdicts of objects that were deleted, which is right
    lost: list[str] = field(default_factory=list)  # no verdict, or dropped and not there any more
    stale: list[str] = field(default_factory=list)  # a verdict of other bytes
    doubled: list[str] = field(default_factory=list)  # the same bytes judged, or sent, twice
    damaged: list[str] = field(default_factory=list)  # not what the schema, or a decoder, takes
    wrong: list[str] = field(default_factory=list)  # not what the bytes are judged as
    leaked: list[str] = field(default_factory=list)  # names in logs; processes and files left behind

    @property
    def is_clean(self) -> bool:
        """Return whether nothing was found."""
        return not any(getattr(self, name) for name in HARM)

    def figures(self) -> dict[str, Any]:
        """Return the counts."""
        found = {name: len(getattr(self, name)) for name in HARM}
        return {"objects": self.objects, **self.verdicts, "orphans": self.orphans, **found}


def check(
    store: Objects, again: int = _JUDGED_AGAIN, held: Mapping[str, str | None] | None = None
) -> Checked:
    """Compare each inbox object with its verdict and its preview; have `again` of them judged once more.

    `held` is what was dropped and not deleted: SHA-256 by name, None where a fault left it open. Nobody but
    those who drop may change it.
    """
    found, schema = Checked(), Draft202012Validator(json.loads(_SCHEMA.read_bytes()))
    inbox = {key: store.read(key) for key in store.keys(INBOX)}
    outbox = list(store.keys(OUTBOX))
    verdicts = {key for key in outbox if key.endswith(".json") and not key.startswith(f"{OUTBOX}.")}
    expected = {f"{OUTBOX}{key.removeprefix(INBOX)}.json": key for key in inbox}
    previews = {key for key in outbox if key.startswith(PREVIEWS)}
    found.objects, found.orphans = len(inbox), len(verdicts - set(expected))
    found.lost += [key for name, key in expected.items() if name not in verdicts]
    found.damaged += [key for key in outbox if key not in verdicts | previews]
    whole = {}
    for name in verdicts:
        contents = list(store.versions(name))
        try:
            verdict = json.loads(contents[-1])
            schema.validate(verdict)
        except Exception:  # noqa: BLE001  whatever is wrong with it
            found.damaged.append(name)
            continue
        if _is_doubled([json.loads(content) for content in contents]):
            found.doubled.append(name)
        if name in expected:
            whole[expected[name]] = verdict
    for key, verdict in whole.items():
        found.verdicts[verdict["status"]] += 1
        _compare(found, key, inbox[key], store.etag(key), verdict)
        _look_at_preview(found, key, verdict, previews, store)
    for name, digest in (held or {}).items():
        data = inbox.get(f"{INBOX}{name}")
        if digest and data is None:
            found.lost.append(f"{name}, from the inbox")
        elif digest and data is not None and hashlib.sha256(data).hexdigest() != digest:
            found.damaged.append(f"{name}, in the inbox")
    if again:
        _judge_again(found, inbox, whole, again)
    return found


def _compare(found: Checked, key: str, data: bytes, etag: str, verdict: dict[str, Any]) -> None:
    source, sha256 = verdict["source"], hashlib.sha256(data).hexdigest()
    is_classified = verdict["status"] == "classified"
    if source["etag"] != etag:
        found.stale.append(key)
    elif (source["key"], source["size"], source.get("sha256", sha256)) != (key, len(data), sha256) or (
        (is_classified, not is_classified) != ("finding" in verdict, "reason" in verdict)
    ):
        found.damaged.append(key)


def _is_doubled(contents: list[dict[str, Any]]) -> bool:
    """Return whether the same bytes were judged twice in a row; a failure may be tried again."""
    shown = contents[-1]
    last = [(one["etag"], one["status"]) for one in shown.get("earlier", [])]  # the newest first
    history = [(shown["source"]["etag"], shown["status"]), *last]
    written = [(one["source"]["etag"], one["status"]) for one in contents]
    return any(
        first == second and first[1] != "failed"
        for line in (history, written)
        for first, second in pairwise(line)
    )


def _look_at_preview(
    found: Checked, key: str, verdict: dict[str, Any], previews: set[str], store: Objects
) -> None:
    name = verdict.get("preview_key")
    if name is None:
        return
    if name not in previews or verdict["source"]["etag"] not in name:
        found.damaged.append(key)
        return
    try:
        Image.open(io.BytesIO(store.read(name)), formats=("JPEG",)).load()
    except Exception:  # noqa: BLE001  whatever is wrong with it
        found.damaged.append(name)


def _judge_again(
    found: Checked, inbox: dict[str, bytes], verdicts: dict[str, dict[str, Any]], most: int
) -> None:
    """Have some objects judged by a new process, and compare."""
    stale = set(found.stale)
    keys = sorted(key for key, one in verdicts.items() if one["status"] != "failed" and key not in stale)
    chosen = random.Random(_SEED).sample(keys, min(most, len(keys)))
    with TemporaryDirectory(prefix="cxr-soak-") as folder:
        for number, key in enumerate(chosen):
            (Path(folder) / f"{number:06}").write_bytes(inbox[key])
        said = subprocess.run(
            [sys.executable, "-m", "cxr", "classify", "--json", folder],
            capture_output=True,
            check=False,
            timeout=600,
        ).stdout
    again = {Path(one["source"]["key"]).name: one for one in map(json.loads, said.splitlines())}
    for number, key in enumerate(chosen):
        one = again.get(f"{number:06}")
        if one is None or not _agree(one, verdicts[key]):
            found.wrong.append(
                f"{key}: {_short(verdicts[key])}, but then {_short(one) if one else 'nothing'}"
            )


def _short(verdict: dict[str, Any]) -> str:
    found = verdict.get("finding") or verdict.get("reason") or {}
    return " ".join(str(part) for part in (verdict["status"], found.get("label"), found.get("code")) if part)


def _agree(first: dict[str, Any], second: dict[str, Any]) -> bool:
    if first["status"] != second["status"]:
        return False
    if first["status"] == "rejected":
        return bool(first["reason"]["code"] == second["reason"]["code"])
    one, other = first["finding"], second["finding"]
    return bool(one["label"] == other["label"] and abs(one["probability"] - other["probability"]) <= _NEAR)


def holding(names: Iterable[bytes], logs: Iterable[Path]) -> list[str]:
    """Return the logs that hold one of these names, in any case of letters."""
    lower = [name.lower() for name in names]
    return [path.name for path in logs if any(name in path.read_bytes().lower() for name in lower)]
