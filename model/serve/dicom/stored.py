"""Read the stored values of a DICOM image, whatever packs them; the data are trusted more than the tags."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from model.serve.dicom.elements import Elements, Value, fragments
from model.serve.dicom.grayscale import bands
from model.serve.files.codecs import Pixels, decoded, unpacked_runs
from model.serve.files.codestreams import Codestream, Family, is_stream, open_stream
from model.serve.files.deep import brightness
from pipeline.errors import InputRejected

Packing = Family | Literal["none", "runs"]

AS_PICTURE = "Export the X-ray as PNG or JPEG, and drop that."
_ROWS_COMPARED, _SMOOTHER, _ALIKE = 64, 0.5, 0.9


@dataclass(frozen=True)
class Stored:
    """Hold the values of an image, [h, w]; for a colour image, its brightness."""

    values: Pixels
    bits: int  # bits that a value may use
    is_colour: bool = False


def size_of(elements: Elements) -> tuple[int, int]:
    """Return columns and rows from the tags or else from the compressed image; raise any exception without
    both.
    """
    columns, rows = elements.integer("Columns"), elements.integer("Rows")
    if columns and rows:
        return columns, rows
    value = elements.value("PixelData")
    if not value:
        raise ValueError("the size is missing")
    stream = open_stream(_frame(value))
    return stream.columns, stream.rows


def check_depth(elements: Elements) -> None:
    """Raise InputRejected for uncompressed pixels of an unsupported depth."""
    if "FloatPixelData" in elements or "DoubleFloatPixelData" in elements:
        message = f"The DICOM file's pixels are floating-point numbers, which are not supported. {AS_PICTURE}"
        raise InputRejected("unsupported_format", message)
    if elements.integer("BitsAllocated") not in (None, 8, 16):
        raise _strange_depth()


def stored_values(elements: Elements, packing: Packing | None) -> Stored:
    """Unpack the one image of a file; `packing` is None when the file does not state it.

    Raises any exception when the file is damaged, and InputRejected when it is not supported.
    """
    value = elements.value("PixelData")
    if not value:
        raise ValueError("the pixels are missing")
    frame = b"" if packing == "none" and value.has_length else _frame(value)
    if packing not in ("none", "runs", None) or is_stream(frame):
        return _of_stream(elements, open_stream(frame), packing)
    return _of_values(elements, value, frame, packing == "runs")


def _frame(value: Value) -> bytes:
    """Return the compressed image: all fragments joined, without the offset table before them."""
    if bytes(value.data[:4]) != b"\xfe\xff\x00\xe0":
        return bytes(value.data)
    pieces = [bytes(piece) for piece in fragments(value.data)]
    has_table = len(pieces) > 1 and not is_stream(pieces[0])
    return b"".join(pieces[1:] if has_table else pieces)


def _of_stream(elements: Elements, stream: Codestream, packing: Packing | None) -> Stored:
    if packing not in ("none", None, stream.family):
        raise ValueError("the image is not compressed as the file states")
    if size_of(elements) != (stream.columns, stream.rows):
        raise ValueError("the stream has another size than the file states")
    if stream.components not in (1, 3) or stream.bits > 16:
        raise _strange_depth()
    photometric = elements.text("PhotometricInterpretation")
    values = decoded(stream, photometric == "RGB")
    if stream.components == 3:
        is_brightness_first = values.ndim == 3 and photometric.startswith(("YBR_F", "YBR_P"))
        return _brightness(values[:, :, 0] if is_brightness_first else values, stream.bits)
    is_signed = stream.is_signed
    if stream.family != "JPEG 2000":  # the others do not state it
        is_signed = elements.integer("PixelRepresentation") == 1
    return Stored(_believed(values.view(f"u{values.itemsize}"), stream.bits, is_signed), stream.bits)


def _of_values(elements: Elements, value: Value, frame: bytes, is_runs: bool) -> Stored:
    columns, rows = size_of(elements)
    photometric, samples = elements.text("PhotometricInterpretation"), elements.integer("SamplesPerPixel")
    if samples not in (1, 3):
        samples = 3 if photometric.startswith(("RGB", "YBR")) else 1
    count, source = rows * columns * samples, frame or value.data
    depth = (elements.integer("BitsAllocated") or (8 if len(source) < 2 * count and not is_runs else 16)) // 8
    by_plane = elements.integer("PlanarConfiguration") == 1
    if is_runs:
        values, by_plane = unpacked_runs(frame, (samples, rows, columns), depth).ravel(), True
    else:
        if photometric == "YBR_FULL_422":
            count = rows * columns * 2
        if len(source) < count * depth:
            raise ValueError("the pixels are cut short")
        values = np.frombuffer(source, f"{elements.order}u{depth}", count)
        if elements.order == ">":
            is_swapped = depth == 1 and value.kind == b"OW" and count % 2 == 0
            values = values.view(np.uint16).byteswap().view(np.uint8) if is_swapped else values.astype("u2")
    if photometric == "YBR_FULL_422":
        return _brightness(values.reshape(-1, 4)[:, :2].reshape(rows, columns), 8 * depth)
    if samples == 3:
        shape = (3, rows, columns) if by_plane else (rows, columns, 3)
        planes = values.reshape(shape)
        planes = np.moveaxis(planes, 0, 2) if by_plane else planes
        return _brightness(planes[:, :, 0] if photometric.startswith("YBR") else planes, 8 * depth)
    return _in_low_bits(elements, values.reshape(rows, columns), 8 * depth)


def _in_low_bits(elements: Elements, values: Pixels, allocated: int) -> Stored:
    bits = elements.integer("BitsStored") or allocated
    bits = bits if bits <= allocated else allocated
    high, is_signed = elements.integer("HighBit"), elements.integer("PixelRepresentation") == 1
    if high is not None and bits <= high < allocated:
        # Only retired ACR-NEMA and early files do this: PS3.5 8.1.1 now fixes the high bit.
        shift = high + 1 - bits
        if any((band & ((1 << shift) - 1)).any() for band in bands(values)):
            message = f"The DICOM file's pixels are not in the lowest bits (not supported). {AS_PICTURE}"
            raise InputRejected("unsupported_format", message)
        values = values >> shift
    believed = _believed(values, bits, is_signed)
    whole = values.view(f"i{values.itemsize}") if is_signed else values
    is_beyond = bits < allocated and any(
        (one != two).any() for one, two in zip(bands(believed), bands(whole), strict=True)
    )
    # Bits beyond those stored: an old overlay, or BitsStored is too small. The smoother one is the picture.
    if is_beyond and _roughness(whole) < _roughness(believed):
        return Stored(whole, allocated)
    return Stored(believed, bits)


def _believed(values: Pixels, bits: int, is_signed: bool) -> Pixels:
    """Return values of so many bits, with the stated sign unless that tears the picture apart.

    A wrong sign wraps the values around, so that the darkest lies next to the brightest. The roughness of
    rows shows it.
    """
    some = values[:: max(len(values) // _ROWS_COMPARED, 1)]
    stated, other = (_roughness(_of_bits(some, bits, sign)) for sign in (is_signed, not is_signed))
    if other >= _SMOOTHER * stated or (not is_signed and _is_saturated(some, bits)):
        return _of_bits(values, bits, is_signed)
    return _of_bits(values, bits, not is_signed)


def _is_saturated(values: Pixels, bits: int) -> bool:
    """Return whether the values in the upper half are bright air or a border, rather than below zero.

    Then they are nearly all alike: at the maximum, or at least, read with a sign, far from their neighbours'
    values.
    """
    read, half = _of_bits(values, bits, False).astype(np.int32), 1 << (bits - 1)
    upper = read[read >= half]
    if not upper.size or np.mean(np.abs(upper - np.median(upper)) <= half >> 7) < _ALIKE:
        return False
    if np.mean(upper == 2 * half - 1) >= _ALIKE:
        return True
    is_upper = read >= half
    steps = np.abs(np.diff(read - 2 * half * is_upper, axis=1))[is_upper[:, 1:] != is_upper[:, :-1]]
    return bool(steps.size) and float(np.median(steps)) > half >> 6


def _of_bits(values: Pixels, bits: int, is_signed: bool) -> Pixels:
    beyond = 8 * values.itemsize - bits
    if is_signed:
        signed = values.view(f"i{values.itemsize}")
        return (signed << beyond) >> beyond if beyond else signed
    return values & ((1 << bits) - 1) if beyond and int(values.max()) >> bits else values


def _roughness(values: Pixels) -> float:
    """Return the mean difference of neighbours in a row."""
    total = sum(int(np.abs(np.diff(band.astype(np.int32), axis=1)).sum()) for band in bands(values))
    return total / max(values.size, 1)


def _brightness(colours: Pixels, bits: int) -> Stored:
    """Return the brightness of RGB, [h, w, 3], or of a brightness, [h, w]; colours of few values count as 8
    bits.
    """
    result: Pixels = colours
    if colours.ndim == 3:
        result = brightness(colours.shape[:2], lambda rows: colours[rows])
    return Stored(result, 8 if bits <= 8 or int(result.max()) < 256 else bits, is_colour=True)


def _strange_depth() -> InputRejected:
    message = f"The DICOM file's pixels have an unsupported depth. {AS_PICTURE}"
    return InputRejected("unsupported_format", message)
