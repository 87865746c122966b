"""The files under a folder, whatever their number: in memory for the folders still to be read."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.store.files import Tree

Unread = Callable[[str, OSError], None]  # takes the key of a folder that may not be read


def keys(root: Path, prefix: str, strict: bool = False) -> Iterator[str]:
    """The names under `root` that begin with `prefix`, but for folders; links are named, and not followed.

    A folder that may not be read is left out; where it is `strict`, StoreError.
    """

    def refuse(folder: str, error: OSError) -> None:
        if strict:
            advice = f"{root / folder} cannot be read: {error.strerror}; allow it, then run the command again"
            raise StoreError(advice) from error

    return (key for key, _ in entries(root, prefix, refuse))


def entries(
    root: Path, prefix: str, unread: Unread, enters: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """As `keys`, each with its entry, of use until the next is asked for; folders that it `enters` alone."""
    waiting = [prefix.rpartition("/")[0]]
    with closing(Tree(str(root))) as tree:
        while waiting:
            folder = waiting.pop()
            try:
                with tree.listed(folder.split("/") if folder else []) as found:
                    for entry in found:
                        key = f"{folder}/{entry.name}".removeprefix("/")
                        if not entry.is_dir(follow_symlinks=False):
                            if key.startswith(prefix):
                                yield key, entry
                        elif f"{key}/".startswith(prefix) and enters(entry.name):
                            waiting.append(key)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went meanwhile, or a link came in its place
            except OSError as error:
                unread(folder, error)
