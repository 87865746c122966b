"""The check whether a file has arrived completely."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from pipeline.store.arrival import looks_whole, still_written
from tests.support import dicoms, pictures


def saved(kind: str, **options: object) -> bytes:
    """Return a picture with texture, so that no format makes it tiny."""
    image = Image.frombytes("L", (300, 200), os.urandom(60_000)).convert("RGB")
    return pictures.encoded(image, kind, **options)


WHOLE: dict[str, Callable[[], bytes]] = {
    "JPEG": pictures.SAMPLE.read_bytes,
    "JPEG with something behind": lambda: pictures.SAMPLE.read_bytes() + b"123",
    "PNG": lambda: saved("PNG"),
    "GIF": lambda: saved("GIF"),
    "BMP": lambda: saved("BMP"),
    "WebP": lambda: saved("WEBP"),
    "JPEG 2000": lambda: saved("JPEG2000"),
    "TIFF": lambda: saved("TIFF"),
    "TIFF in strips": lambda: saved("TIFF", compression="tiff_deflate", strip_size=8192),
    "DICOM": dicoms.dicom,
    "DICOM, implicit": lambda: dicoms.dicom(syntax=ImplicitVRLittleEndian),
    "DICOM, compressed": lambda: dicoms.compressed(RLELossless),
    "DICOM without its preamble": lambda: dicoms.dicom()[132:],
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_file_does_not_look_whole(name: str) -> None:
    data = WHOLE[name]()
    assert looks_whole(BytesIO(data), len(data))
    for size in (len(data) // 3, len(data) * 4 // 5):
        assert not looks_whole(BytesIO(data[:size]), size)
        reserved = data[:size].ljust(len(data), b"\0")
        if "JPEG" in name and "DICOM" not in name:
            assert not looks_whole(BytesIO(reserved), len(reserved))


def test_a_deflated_dicom_file_is_taken_at_once() -> None:
    """Its end cannot be seen, so waiting would be useless."""
    data = dicoms.dicom(syntax=DeflatedExplicitVRLittleEndian)
    assert looks_whole(BytesIO(data), len(data))


def test_reserved_room_does_not_look_whole() -> None:
    assert not looks_whole(BytesIO(bytes(100_000)), 100_000)
    assert not looks_whole(BytesIO(bytes(10)), 10)


@pytest.mark.parametrize(
    "data", [b"1", b"Dear colleague", b"%PDF-1.7\n", b"II*\0", b"BM", b"RIFF", b"\xff\xd8"]
)
def test_looking_never_raises(data: bytes) -> None:
    looks_whole(BytesIO(data), len(data))


def test_a_format_without_an_end_is_taken_as_it_is() -> None:
    assert looks_whole(BytesIO(b"Dear colleague"), 14)


@pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="needs Linux")
def test_who_has_a_file_open_for_writing_is_seen(tmp_path: Path) -> None:
    written, read = tmp_path / "written", tmp_path / "read"
    read.write_bytes(b"1")
    with written.open("wb"), read.open("rb"):
        states = [path.stat() for path in (written, read)]
        files = [(state.st_dev, state.st_ino) for state in states]
        assert still_written(files) == {files[0]}
    assert still_written(files) == set()
    assert still_written([]) == set()
