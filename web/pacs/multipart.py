"""Split a body of several parts (RFC 2046, `multipart/related`) while it is read; no part is held in memory.

werkzeug's own parser is made for forms: it needs a `Content-Disposition` in each part, and keeps fields.
"""

import re
from collections.abc import Callable, Iterator, Mapping

from pipeline.errors import CxrError

_CHUNK = 1 << 16
_MOST_HEADERS = 1 << 13  # bytes in front of one part
_LONGEST_PADDING = 64  # spaces that may follow a delimiter
_BOUNDARY = re.compile(r"[!-~ ]{0,199}[!-~]")  # RFC 2046 has 70 letters; Orthanc sends 73
_END, _PADDING = b"--", re.compile(rb"[ \t]{0,%d}\r\n" % _LONGEST_PADDING)
_UNDECIDED = re.compile(rb"-|[ \t]{0,%d}\r?" % _LONGEST_PADDING)  # more bytes may make it one of these
_HEADER = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*", re.DOTALL)


class MultipartError(CxrError):
    """Report a body that cannot be split any further; the sentence says why and quotes nothing."""


BodyPart = tuple[Mapping[str, str], Iterator[bytes]]


def split(read: Callable[[int], bytes], boundary: str) -> Iterator[BodyPart]:
    """Yield the headers (by their names in small letters) and the content of each part, one after the other.

    A content that is not read to its end is skipped. Raises MultipartError, also from the contents.
    """
    if not _BOUNDARY.fullmatch(boundary):
        raise MultipartError("Content-Type has no usable boundary.")
    scan = _Scan(read, boundary.encode())
    for _ in scan.content():  # before the first part
        pass
    while not scan.is_over:
        headers, content = scan.headers(), scan.content()
        yield headers, content
        for _ in content:
            pass


class _Scan:
    """Read forward, from delimiter to delimiter."""

    def __init__(self, read: Callable[[int], bytes], boundary: bytes) -> None:
        self._read, self._delimiter = read, b"\r\n--" + boundary
        self._buffer = b"\r\n"  # the first delimiter may be at the very beginning
        self._is_first, self.is_over = True, False

    def content(self) -> Iterator[bytes]:
        """Yield what comes before the next delimiter, and step over that."""
        start = 0
        while True:
            place = self._buffer.find(self._delimiter, start)
            if place < 0:
                ready = len(self._buffer) - len(self._delimiter) + 1
                if ready > 0:
                    data, self._buffer, start = self._buffer[:ready], self._buffer[ready:], 0
                    yield data
                self._fill()
                continue
            after = self._what_follows(place + len(self._delimiter))
            if after is None:
                start = place + 1  # data that only begin like a delimiter
                continue
            data, self._buffer = self._buffer[:place], self._buffer[after:]
            self._is_first = False
            if data:
                yield data
            return

    def headers(self) -> dict[str, str]:
        """Return the headers in front of a part, and step over them."""
        self._buffer = b"\r\n" + self._buffer  # that of the delimiter ends the headers if there are none
        while (place := self._buffer.find(b"\r\n\r\n")) < 0 and len(self._buffer) <= _MOST_HEADERS:
            self._fill()
        if not 0 <= place <= _MOST_HEADERS:
            raise MultipartError("The headers of a part are too long.")
        block, self._buffer = self._buffer[:place], self._buffer[place + 4 :]
        if self._delimiter in block + b"\r\n":
            raise MultipartError("A part has no empty line after its headers.")
        lines = re.sub(rb"\r\n[ \t]+", b" ", block).decode("latin-1").split("\r\n")
        found = [_HEADER.fullmatch(line) for line in lines]
        return {one[1].lower(): one[2] for one in reversed(found) if one}

    def _what_follows(self, place: int) -> int | None:
        """Return where a delimiter's line ends, the last of which ends all; None where it is none."""
        while True:
            if self._buffer.startswith(_END, place):
                self.is_over = True
                return place + len(_END)
            if padding := _PADDING.match(self._buffer, place):
                return padding.end()
            if not _UNDECIDED.fullmatch(self._buffer, place):
                return None
            self._fill()

    def _fill(self) -> None:
        data = self._read(_CHUNK)
        if not data:
            where = "before its first part: the boundary is not in it" if self._is_first else "within a part"
            raise MultipartError(f"The request ends {where}.")
        self._buffer += data
