"""The files under a folder, whatever their number: in memory for one open folder a level."""

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import StoreError


def keys(root: Path, prefix: str, strict: bool = False) -> Iterator[str]:
    """The names under `root` that begin with `prefix`, but for folders; links are named, and not followed.

    A folder that may not be read is left out; where it is `strict`, StoreError.
    """
    folder = prefix.rpartition("/")[0]
    try:
        entries = os.scandir(root / folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if strict:
            advice = f"{root / folder} cannot be read: {error.strerror}; allow it, then run the command again"
            raise StoreError(advice) from error
        return
    with entries:
        for entry in entries:
            key = f"{folder}/{entry.name}".removeprefix("/")
            if not entry.is_dir(follow_symlinks=False):
                if key.startswith(prefix):
                    yield key
            elif f"{key}/".startswith(prefix):
                yield from keys(root, f"{key}/", strict)
