"""List the files under a folder, however many; memory grows only with the folders still to be read."""

import heapq
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.store.files import Tree

Unread = Callable[[str, OSError], None]  # takes the key of a folder that may not be read


def keys(root: Path, prefix: str, strict: bool = False) -> Iterator[str]:
    """Yield the keys under `root` that begin with `prefix`; links are listed, but not followed.

    Folders themselves are not listed. A folder that may not be read is left out; if `strict`, StoreError is
    raised.
    """

    def refuse(folder: str, error: OSError) -> None:
        if strict:
            advice = f"{root / folder} cannot be read: {error.strerror}; allow it, then run the command again"
            raise StoreError(advice) from error

    return (key for key, _ in entries(root, prefix, refuse))


def entries(
    root: Path,
    prefix: str,
    unread: Unread,
    enters: Callable[[str], bool] = lambda name: True,
    newest_first: bool = False,
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the keys of `keys`, each with its entry, which is valid until the next.

    Only folders that `enters` accepts are entered, with `newest_first` the last changed ones first.
    """
    number = count(1)
    waiting = [(0.0, prefix.rpartition("/")[0])]
    with closing(Tree(str(root))) as tree:
        while waiting:
            _, folder = heapq.heappop(waiting)
            try:
                with tree.listed(folder.split("/") if folder else []) as found:
                    for entry in found:
                        key = f"{folder}/{entry.name}".removeprefix("/")
                        if not entry.is_dir(follow_symlinks=False):
                            if key.startswith(prefix):
                                yield key, entry
                        elif f"{key}/".startswith(prefix) and enters(entry.name):
                            heapq.heappush(waiting, (_age(entry) if newest_first else -next(number), key))
            except (FileNotFoundError, NotADirectoryError):
                continue  # it was removed meanwhile, or replaced by a link
            except OSError as error:
                unread(folder, error)


def _age(folder: os.DirEntry[str]) -> float:
    try:
        return -folder.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
