"""DICOM files that would need too much memory or time."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import uid

from model.serve.files.decode import decode
from pipeline.errors import InputRejected
from pipeline.records import ImageFacts
from tests.support import dicoms
from tests.support.dicoms import dicom

LIMIT = 2_000_000  # pixels


def _elements(count: int) -> bytes:
    """Return a file with this many empty private elements."""
    whole = dicoms.bare(uid.ImplicitVRLittleEndian)
    place = whole.index(struct.pack("<HH", 0x0010, 0x1010))
    private = b"".join(struct.pack("<HHI", 9 + 2 * (n >> 16), n & 0xFFFF, 0) for n in range(count))
    return whole[:place] + private + whole[place:]


def _items(count: int, tag: tuple[int, int] = (0x0008, 0x2218), has_length: bool = True) -> bytes:
    """Return a deflated file with a sequence of this many empty items."""
    body = dicoms.bare(uid.ExplicitVRLittleEndian)
    place = body.index(struct.pack("<HH", 0x0010, 0x1010))
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    end = b"" if has_length else struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    length = len(items) if has_length else 0xFFFFFFFF
    sequence = struct.pack("<HH2sHI", *tag, b"SQ", 0, length) + items + end
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    header = dicom(syntax=uid.DeflatedExplicitVRLittleEndian)
    start = 144 + struct.unpack_from("<I", header, 140)[0]
    return header[:start] + deflater.compress(body[:place] + sequence + body[place:]) + deflater.flush()


def _nested(depth: int, has_length: bool) -> bytes:
    whole = dicoms.bare(uid.ExplicitVRLittleEndian)
    place = whole.index(struct.pack("<HH", 0x0010, 0x1010))
    inner = b""
    for _ in range(depth):
        if has_length:
            inner = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
            inner = struct.pack("<HH2sHI", 0x0008, 0x2218, b"SQ", 0, len(inner)) + inner
        else:
            inner += struct.pack(
                "<HH2sHIHHI", 0x0008, 0x2218, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF
            )
    return whole[:place] + inner + whole[place:]


def test_elements_and_items_by_the_thousand_are_stepped_over() -> None:
    for data in (
        _elements(20_000),
        _items(100_000),
        _items(20_000, has_length=False),
        _items(20_000, (0x0009, 0x1010), has_length=False),
    ):
        assert decode(data, LIMIT)[1] == ImageFacts("application/dicom", 320, 256)


@pytest.mark.parametrize("has_length", [False, True])
def test_sequences_nested_without_end_are_refused(has_length: bool) -> None:
    with pytest.raises(InputRejected) as caught:
        decode(_nested(1000, has_length), LIMIT)
    assert caught.value.code == "unsupported_format"


@pytest.mark.whole
def test_a_million_items_take_no_memory(tmp_path: Path) -> None:
    assert grown(tmp_path, _items(1_000_000)) < 100e6


@pytest.mark.whole
def test_deep_colours_take_little_more_memory_than_their_file(tmp_path: Path) -> None:
    data = dicom(np.zeros((2000, 2000, 3), np.uint16))
    assert grown(tmp_path, data) < 2.5 * len(data)


def grown(folder: Path, data: bytes) -> int:
    """Return the bytes by which a process that decodes a file grows, memory outside Python included."""
    path = folder / "a.dcm"
    path.write_bytes(data)
    code = (
        "import resource, sys, pathlib\n"
        "from model.serve.files.decode import decode; import model.serve.dicom.file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "decode(pathlib.Path(sys.argv[1]).read_bytes(), 5_000_000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024
