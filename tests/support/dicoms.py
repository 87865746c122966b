"""Write DICOM files of a synthetic X-ray, as devices write them and as none should."""

import io
import struct
import threading
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from tests.support import pictures

Pixels = npt.NDArray[np.generic]
_encoding = threading.Lock()  # two encoders of openjpeg at once damage the memory; its decoders do not
DIGITAL_XRAY = "1.2.840.10008.5.1.4.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
WHOLE_WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}  # of 12 bits


@cache
def gray() -> Pixels:
    """Return the sample, smaller, with 8 bits."""
    return np.asarray(pictures.sample().resize((320, 256)))


def deep() -> Pixels:
    """Return the sample with 12 bits."""
    return gray().astype(np.uint16) * 16 + 8


def dataset(pixels: Pixels | None = None, **tags: object) -> Dataset:
    """Return a frontal chest X-ray of a child aged three; an attribute that is None is left out."""
    pixels = deep() if pixels is None else pixels
    size = pixels.itemsize * 8
    values: dict[str, object] = {
        "SOPClassUID": DIGITAL_XRAY,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientAge": "003Y",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": pixels.shape[2] if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0 if pixels.ndim == 3 else None,
        "BitsAllocated": size,
        "BitsStored": 12 if size == 16 else size,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    found = Dataset()
    for name, value in (values | tags).items():
        if value is not None:
            setattr(found, name, value)
    if "HighBit" not in tags and "BitsStored" in found:
        found.HighBit = found.BitsStored - 1
    if "PixelData" in found:
        found["PixelData"].VR = "OW"
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return found


def written(found: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """Return the file; if its syntax differs from the dataset's, the dataset must be uncompressed."""
    buffer = io.BytesIO()
    if found.file_meta.TransferSyntaxUID in uid.UncompressedTransferSyntaxes:
        found.file_meta.TransferSyntaxUID = uid.UID(syntax)
    if syntax == uid.ExplicitVRBigEndian and found.BitsAllocated == 16:
        found.PixelData = np.frombuffer(found.PixelData, np.uint16).byteswap().tobytes()
    found.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom(pixels: Pixels | None = None, syntax: str = uid.ExplicitVRLittleEndian, **tags: object) -> bytes:
    return written(dataset(pixels, **tags), syntax)


def renamed(data: bytes, instance: str, **tags: object) -> bytes:
    """Return a file as another object, of this SOP Instance UID."""
    found = dcmread(io.BytesIO(data))
    for name, value in tags.items():
        setattr(found, name, value)
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = uid.UID(instance)
    return written(found, found.file_meta.TransferSyntaxUID)


def bare(syntax: str) -> bytes:
    """Return the file without preamble and header."""
    whole = dicom(syntax=syntax, **WHOLE_WINDOW)
    return whole[144 + struct.unpack_from("<I", whole, 140)[0] :]


def mistaken(syntax: str) -> bytes:
    """Return the header of an explicit file followed by the elements of another syntax."""
    whole = dicom(**WHOLE_WINDOW)
    return whole[: 144 + struct.unpack_from("<I", whole, 140)[0]] + bare(syntax)


def compressed(syntax: str, pixels: Pixels | None = None, **options: object) -> bytes:
    """Compress with pydicom's own encoders and those that it finds."""
    found = dataset(pixels, **(WHOLE_WINDOW if pixels is None else {}))
    found.compress(syntax, generate_instance_uid=False, **options)
    return written(found)


def packed(frame: bytes, syntax: str, pixels: Pixels | None = None, **tags: object) -> bytes:
    """Return a file with a frame that another encoder compressed."""
    found = dataset(pixels, **tags)
    found.PixelData = encapsulate([frame])
    found.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return written(found)


def jpeg2000(pixels: Pixels, bits: int, **options: object) -> bytes:
    with _encoding:
        return bytes(encode_array(pixels, bits_stored=bits, photometric_interpretation=2, **options))


def jpeg() -> bytes:
    return pictures.encoded(Image.fromarray(gray()), "JPEG", quality=95)


def lossless_jpeg(pixels: Pixels, predictor: int, bits: int) -> bytes:
    """Encode by ITU-T T.81 annex H, with differences from the pixel to the left (predictor 1) or above (2).

    Each difference is a class of 5 bits, and as many bits as the class says.
    """
    return _lossless_jpeg(pixels.tobytes(), pixels.dtype.str, pixels.shape, predictor, bits)


@cache  # many tests encode the same pixels
def _lossless_jpeg(data: bytes, kind: str, shape: tuple[int, int], predictor: int, bits: int) -> bytes:
    values = np.frombuffer(data, kind).reshape(shape).astype(np.int64)
    expected = np.roll(values, 1, axis=2 - predictor)
    expected[:, 0] = np.roll(values[:, 0], 1)  # the first column is like the one above, the first row
    expected[0] = np.roll(values[0], 1)  # like the one to the left
    expected[0, 0] = 1 << (bits - 1)
    stream = []
    for difference in (values - expected).ravel().tolist():
        size = abs(difference).bit_length()
        extra = difference if difference > 0 else difference + (1 << size) - 1
        stream.append(f"{size:05b}" + (f"{extra:0{size}b}" if size else ""))
    text = "".join(stream)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    rows, columns = shape
    codes = bytes((0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)))  # 17 codes of 5 bits
    return b"".join(
        (
            b"\xff\xd8\xff\xc3" + struct.pack(">HBHHBBBB", 11, bits, rows, columns, 1, 1, 0x11, 0),
            b"\xff\xc4" + struct.pack(">H", 2 + len(codes)) + codes,
            b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, predictor, 0, 0),
            scan + b"\xff\xd9",
        )
    )


SYNTAXES: dict[str, tuple[float, Callable[[], bytes]]] = {  # with the mean error that its packing may make
    "implicit": (0, lambda: dicom(syntax=uid.ImplicitVRLittleEndian, **WHOLE_WINDOW)),
    "explicit": (0, lambda: dicom(**WHOLE_WINDOW)),
    "big endian": (0, lambda: dicom(syntax=uid.ExplicitVRBigEndian, **WHOLE_WINDOW)),
    "deflated": (0, lambda: dicom(syntax=uid.DeflatedExplicitVRLittleEndian, **WHOLE_WINDOW)),
    "no preamble": (0, lambda: dicom(**WHOLE_WINDOW)[132:]),
    "no preamble, no length of its header": (0, lambda: dicom(**WHOLE_WINDOW)[144:]),
    "no header, implicit": (0, lambda: bare(uid.ImplicitVRLittleEndian)),
    "no header, explicit": (0, lambda: bare(uid.ExplicitVRLittleEndian)),
    "no header, big endian": (0, lambda: bare(uid.ExplicitVRBigEndian)),
    "implicit, and said to be explicit": (0, lambda: mistaken(uid.ImplicitVRLittleEndian)),
    "RLE": (0, lambda: compressed(uid.RLELossless)),
    "RLE of colours": (0.6, lambda: compressed(uid.RLELossless, np.stack([gray()] * 3, -1))),
    "JPEG baseline": (1, lambda: packed(jpeg(), uid.JPEGBaseline8Bit, gray())),
    "JPEG extended of 8 bits": (1, lambda: packed(jpeg(), uid.JPEGExtended12Bit, gray())),
    "JPEG lossless, first order": (
        0,
        lambda: packed(lossless_jpeg(deep(), 1, 12), uid.JPEGLosslessSV1, **WHOLE_WINDOW),
    ),
    "JPEG lossless": (0, lambda: packed(lossless_jpeg(deep(), 2, 12), uid.JPEGLossless, **WHOLE_WINDOW)),
    "JPEG lossless of 8 bits": (0, lambda: packed(lossless_jpeg(gray(), 1, 8), uid.JPEGLosslessSV1, gray())),
    "JPEG-LS": (0, lambda: compressed(uid.JPEGLSLossless)),
    "JPEG-LS, near lossless": (0.5, lambda: compressed(uid.JPEGLSNearLossless, jls_error=8)),
    "JPEG 2000 lossless": (0, lambda: packed(jpeg2000(deep(), 12), uid.JPEG2000Lossless, **WHOLE_WINDOW)),
    "JPEG 2000": (
        1,
        lambda: packed(jpeg2000(deep(), 12, compression_ratios=[10]), uid.JPEG2000, **WHOLE_WINDOW),
    ),
}
