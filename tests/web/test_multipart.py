"""Splitting a body of several parts, in whatever pieces it comes."""

import io
import re
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as some

from web.pacs import multipart
from web.pacs.multipart import MultipartError, split

BOUNDARY = "b0und"
# Text that looks like a delimiter, and almost like one.
PIECES = [
    b"--b0und",
    b"\r\n--b0und",
    b"\r\n--b0undx",
    b"\r\n--b0un",
    b"\r\n",
    b"\r",
    b"--",
    b" ",
    b"\0\xff",
    b"a",
]
DELIMITER = re.compile(rb"\r\n--b0und(--|[ \t]{0,64}\r\n)")


def reader(data: bytes, sizes: list[int]) -> Callable[[int], bytes]:
    """Read in pieces of these sizes, over and over."""
    stream, turn = io.BytesIO(data), iter(sizes * (len(data) + 1))
    return lambda most: stream.read(min(next(turn, most), most))


def found(data: bytes, sizes: list[int] | None = None) -> list[tuple[dict[str, str], bytes]]:
    parts = split(reader(data, sizes or [1 << 16]), BOUNDARY)
    return [(dict(headers), b"".join(content)) for headers, content in parts]


def body(*parts: bytes, before: bytes = b"", after: bytes = b"", header: bytes = b"A: b\r\n") -> bytes:
    written = b"".join(b"\r\n--b0und\r\n" + header + b"\r\n" + part for part in parts)
    return before + (written if before else written[2:]) + b"\r\n--b0und--" + after


@settings(max_examples=200, deadline=None)
@given(
    some.lists(
        some.lists(some.sampled_from(PIECES[1:]) | some.binary(max_size=5), max_size=8).map(b"".join),
        min_size=1,
        max_size=4,
    ),
    some.lists(some.integers(1, 30), min_size=1, max_size=5),
    some.sampled_from([b"", b"preamble", b"\r\nx: y\r\n\r\n--b0un"]),
)
@example([b"\r\n--b0und-", b"\r\n--b0und \tx", b""], [1], b"")
@example([b"\r\n--b0und" + b" " * 65 + b"\r\n"], [3], b"")
def test_parts_come_out_as_they_went_in(parts: list[bytes], sizes: list[int], before: bytes) -> None:
    whole = body(*parts, before=before, after=b"\r\nepilogue \r\n--b0und\r\n")
    assume(not any(DELIMITER.search(part + b"\r\n") for part in parts))  # the sender has to see to that
    assert found(whole, sizes) == [({"a": "b"}, part) for part in parts]


@settings(max_examples=200, deadline=None)
@given(some.lists(some.sampled_from(PIECES) | some.binary(max_size=9)).map(b"".join), some.integers(1, 40))
def test_no_bytes_raise_anything_else(data: bytes, size: int) -> None:
    for whole in (data, b"--b0und\r\n" + data, body(data)[: len(data) + 9]):
        with suppress(MultipartError):
            found(whole, [size])


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_missing_end_is_told(cut: int) -> None:
    whole = body(b"0123456789" * 3)
    with pytest.raises(MultipartError, match="ends"):
        found(whole[:-cut])


def test_the_parts_before_a_missing_end_are_seen() -> None:
    parts = split(io.BytesIO(body(b"one", b"two")[:-4]).read, BOUNDARY)
    assert b"".join(next(parts)[1]) == b"one"
    _, content = next(parts)
    with pytest.raises(MultipartError, match="within a part"):
        b"".join(content)


def test_headers() -> None:
    junk = b"no colon\r\n: empty\r\nContent-Type: application/dicom;\r\n transfer-syntax=*\r\nX : y\r\n"
    junk += b"CONTENT-TYPE: z\r\n"
    assert found(body(b"d", header=junk)) == [
        ({"content-type": "application/dicom; transfer-syntax=*"}, b"d"),
    ]
    assert found(body(b"d", header=b"")) == [({}, b"d")]
    assert found(b"--b0und \t \r\n\r\nd\r\n--b0und--") == [({}, b"d")]
    with pytest.raises(MultipartError, match="too long"):
        found(body(b"", header=b"A: b\r\n" * 5000))
    with pytest.raises(MultipartError, match="no empty line"):
        found(b"--b0und\r\nA: b\r\n--b0und\r\n\r\nd\r\n--b0und--")


def test_endless_headers_are_not_collected() -> None:
    read = 0

    def endless(most: int) -> bytes:
        nonlocal read
        read += most
        return b"A" * most if read > most else b"--b0und\r\n".ljust(most, b"A")

    with pytest.raises(MultipartError, match="too long"):
        list(split(endless, BOUNDARY))
    assert read <= 1 << 18


def test_a_skipped_content_is_passed_over() -> None:
    parts = split(io.BytesIO(body(b"x" * 200_000, b"two")).read, BOUNDARY)
    next(parts)
    _, content = next(parts)
    assert b"".join(content) == b"two"
    assert list(parts) == []


def test_memory_is_bounded() -> None:
    sizes = []
    for _, content in split(io.BytesIO(body(b"\r\n--b0undX" * 500_000)).read, BOUNDARY):
        sizes += map(len, content)
    assert sum(sizes) == 5_000_000
    assert max(sizes) < 3 * multipart._CHUNK


@pytest.mark.parametrize("boundary", ["", " ", "x" * 201, "a\r\nb", "ä", "x "])
def test_a_wrong_boundary_is_told(boundary: str) -> None:
    with pytest.raises(MultipartError, match="boundary"):
        list(split(io.BytesIO(b"--x--").read, boundary))
