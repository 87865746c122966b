"""Decode compressed pixels with one decoder for each kind of stream; each refuses truncated data.

A decoder is imported when a file needs it. All have free licences.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.serve.files.codestreams import Codestream, check_length, first_scan
from model.serve.files.complaints import complaints_are_damage
from model.serve.files.jpeg import decode_gray

Pixels = npt.NDArray[np.integer[Any]]

_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\0"  # a segment that says that colours are not YCbCr


def decoded(stream: Codestream, is_rgb: bool = False) -> Pixels:
    """Return the values of a stream, [h, w], or its colours, [h, w, 3]; raise any exception when it is
    damaged.

    `is_rgb`: whether the file says that colours are RGB, which counts when a JPEG does not state it. The
    colours of an 8-bit JPEG are returned as their brightness.
    """
    if stream.family == "JPEG 2000":
        return _jpeg2000(stream)
    if stream.family == "JPEG-LS":
        return _jpeg_ls(stream)
    if stream.is_lossless_jpeg:
        values = _by_gdcm(stream)
        check_length(
            stream, first_scan(stream), [values] if values.ndim == 2 else [*np.moveaxis(values, 2, 0)]
        )
        return values
    if is_rgb and not stream.says_colours:
        stream = replace(stream, data=stream.data[:2] + _RGB + stream.data[2:])
    if stream.bits == 8:
        return decode_gray(stream.data)
    return _by_gdcm(stream)


def unpacked_runs(frame: bytes, shape: tuple[int, int, int], depth: int) -> Pixels:
    """Decode RLE (PS3.5 annex G), one colour after the other: values of `depth` bytes, [samples, h, w].

    A segment holds one byte of every pixel, the most significant first. Pillow unpacks it, and makes no more
    values than there are pixels. Raises ValueError, struct.error or IndexError when it is damaged.
    """
    samples, rows, columns = shape
    number, *starts = np.frombuffer(frame, "<u4", 16).tolist()
    if number != samples * depth:
        raise ValueError("the number of segments does not match the file")
    values = np.empty((samples, rows * columns, depth), np.uint8)
    for place, (start, end) in enumerate(pairwise([*starts[:number], len(frame)])):
        plane = Image.frombytes("L", (rows * columns, 1), frame[start:end], "packbits", "L")
        values[place // depth, :, depth - 1 - place % depth] = np.asarray(plane)[0]
    return values.view(f"<u{depth}").reshape(shape)


def _jpeg_ls(stream: Codestream) -> Pixels:
    import jpeg_ls

    data, found = jpeg_ls.decode_buffer(stream.data)
    values = np.frombuffer(data, np.uint8 if stream.bits <= 8 else "<u2")
    if stream.components == 1:
        return values.reshape(stream.rows, stream.columns)
    if found["interleave_mode"]:
        return values.reshape(stream.rows, stream.columns, 3)
    return np.moveaxis(values.reshape(3, stream.rows, stream.columns), 0, 2)


def _jpeg2000(stream: Codestream) -> Pixels:
    from openjpeg.utils import decode

    values: Pixels = decode(stream.data, 0)
    if values.shape[:2] != (stream.rows, stream.columns):
        raise ValueError("the stream holds another image than it states")
    return values


def _by_gdcm(stream: Codestream) -> Pixels:
    """Decode a lossless JPEG, or one of more than 8 bits."""
    import gdcm

    first_scan(stream)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream.data)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image, gray = gdcm.Image(), stream.components == 1
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetDataElement(element)
    name = "MONOCHROME2" if gray else "RGB"
    kind = gdcm.PhotometricInterpretation.GetPIType(name)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if not gray:
        image.SetPlanarConfiguration(0)
    syntax = "1.2.840.10008.1.2.4.57" if stream.is_lossless_jpeg else "1.2.840.10008.1.2.4.51"
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    depth = 8 if stream.bits <= 8 else 16
    stored = max(stream.bits, 8)  # fewer would make gdcm end the process
    image.SetPixelFormat(gdcm.PixelFormat(stream.components, depth, stored, stored - 1, 0))
    with complaints_are_damage():
        data = image.GetBuffer()
    if data is None:
        raise ValueError("the stream is damaged")
    shape = (stream.rows, stream.columns) if gray else (stream.rows, stream.columns, 3)
    values = np.frombuffer(data.encode("utf-8", "surrogateescape"), np.uint8 if depth == 8 else "<u2")
    return values.reshape(shape)
