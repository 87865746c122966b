"""Catch the complaints of C libraries, which go only to the terminal."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_DAMAGE = (b"Corrupt JPEG data", b"Premature end of JPEG", b"Inconsistent progression")  # by libjpeg
_alone = Lock()


@contextmanager
def complaints_are_damage() -> Iterator[None]:
    """Raise ValueError at the end if libjpeg reported damage in the block; nothing reaches the terminal.

    libjpeg invents pixels in place of damaged ones and only warns. It also prints about sound files
    ("precision 12"), and another thread may print meanwhile, so only its messages about damage count.
    """
    with _alone, tempfile.TemporaryFile() as said:
        try:
            kept = os.dup(2)
        except OSError:  # there is no standard error
            kept = None
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            if kept is None:
                os.close(2)
            else:
                os.dup2(kept, 2)
                os.close(kept)
        said.seek(0)
        if any(line.startswith(_DAMAGE) for line in said):
            raise ValueError("the decoder found the stream damaged")
