"""DICOM files: what they say that matters here, and their pixels. Nothing else of them is kept.

The only module that imports pydicom, which takes its time: `model.decode` imports it when a DICOM file comes.
pydicom quotes values of a file in warnings and logs, where a patient's name must not get: it is silenced.
"""

import io
import logging
import re
import warnings
import zlib
from collections.abc import MutableSequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.utils import pixel_array

from model.codestreams import coded_size, unpacked_runs
from model.grayscale import SHAPES, Grayscale, LookUp, Rescale, Shape, Window
from model.radiograph import Tags
from pipeline.errors import InputRejected
from pipeline.ports import ImageFacts

warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_DAMAGED = "The DICOM file is damaged: it cannot be decoded. Export the X-ray again and drop it anew."
_AS_PICTURE = "Export the X-ray as PNG or JPEG, and drop that."
_PREAMBLE = 132  # bytes, with DICM at their end
_HEADER_BYTES, _BYTES_A_PIXEL = 1 << 24, 6  # the most that an inflated file may have: 3 colours of 16 bits

_PALETTE = ("Red", "Green", "Blue")
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow has it
_TAGS: list[Any] = [
    tag_for_keyword(word)
    for word in (
        *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "Modality", "ConversionType"),
        *("BodyPartExamined", "ViewPosition", "ViewCodeSequence", "PatientOrientation"),
        *("BurnedInAnnotation", "PatientAge", "PatientBirthDate", "StudyDate"),
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
        *(
            "PlanarConfiguration",
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "PixelRepresentation",
            "PixelData",
        ),
        *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
        *("ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
        *(f"{colour}PaletteColorLookupTableDescriptor" for colour in _PALETTE),
        *(f"{colour}PaletteColorLookupTableData" for colour in _PALETTE),
    )
]
_CODESTREAMS = (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes, *uid.JPEG2000TransferSyntaxes)
_SYNTAXES = (*uid.UncompressedTransferSyntaxes, *uid.RLETransferSyntaxes, *_CODESTREAMS)


class DicomFile:
    """One radiograph. Whatever the bytes do to pydicom, opening it ends well or as InputRejected."""

    def __init__(self, data: bytes, max_pixels: int, keep_uid: bool) -> None:
        try:
            self._dataset = _read(data, _HEADER_BYTES + _BYTES_A_PIXEL * max_pixels)
            self.facts = _facts(self._dataset, keep_uid)
            self.frames = max(int(_first(self._dataset.get("NumberOfFrames")) or 1), 1)
            tags = _tags(self._dataset)
            self.warnings = tags.warnings
            if tags.refusal:
                raise InputRejected("not_a_chest_xray", tags.refusal, self.facts)
            _check_depth(self._dataset, self.facts)
        except InputRejected:
            raise
        except Exception as error:  # a parser may raise anything over a stranger's file
            raise InputRejected("unreadable", _DAMAGED) from error

    def load(self) -> Image.Image:
        """The image as a viewer shows it, in 8-bit gray. Raises anything at all when the file is damaged."""
        pixels = _pixels(self._dataset)
        if pixels.ndim == 3:
            shift = max(self._dataset.BitsStored - 8, 0)
            return Image.fromarray((pixels >> shift).astype(np.uint8)).convert("L")
        return Image.fromarray(_grayscale(self._dataset).show(pixels))


def _read(data: bytes, most: int) -> Dataset:
    """The elements that matter. In two steps, since pydicom inflates a deflated file without a limit."""
    source = io.BytesIO(data)
    source.seek(_PREAMBLE if data[_PREAMBLE - 4 : _PREAMBLE] == b"DICM" else 0)
    meta = FileMetaDataset(read_dataset(source, False, True, stop_when=lambda tag, *_: tag >> 16 != 2))
    syntax = uid.UID(meta.get("TransferSyntaxUID", uid.ImplicitVRLittleEndian))
    if syntax not in _SYNTAXES:
        message = f"The DICOM file is compressed in a way that cannot be read. {_AS_PICTURE}"
        raise InputRejected("unsupported_format", message)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        source = io.BytesIO(_inflated(source.read(), most))
    dataset = read_dataset(source, syntax.is_implicit_VR, syntax.is_little_endian, specific_tags=_TAGS)
    meta.TransferSyntaxUID = syntax
    dataset.file_meta = meta
    return dataset


def _inflated(data: bytes, most: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    whole = inflater.decompress(data, most)
    if inflater.unconsumed_tail:
        raise InputRejected("too_many_pixels", f"The DICOM file is too large when unpacked. {_AS_PICTURE}")
    return whole


def _facts(dataset: Dataset, keep_uid: bool) -> ImageFacts:
    if "PixelData" not in dataset and "Rows" not in dataset:
        message = "The DICOM file holds no image. Drop the file of a frontal chest X-ray."
        raise InputRejected("unsupported_format", message)
    name = str(dataset.get("SOPInstanceUID", ""))
    kept = keep_uid and re.fullmatch(r"[0-9.]{1,64}", name)
    return ImageFacts("application/dicom", int(dataset.Columns), int(dataset.Rows), name if kept else None)


def _tags(dataset: Dataset) -> Tags:
    meanings = (_text(code, "CodeMeaning") for code in dataset.get("ViewCodeSequence") or ())
    return Tags(
        modality=_text(dataset, "Modality"),
        body_part=_text(dataset, "BodyPartExamined"),
        views=(_text(dataset, "ViewPosition"), *meanings),
        orientation=_text(dataset, "PatientOrientation"),
        age=_text(dataset, "PatientAge"),
        born=_text(dataset, "PatientBirthDate"),
        studied=_text(dataset, "StudyDate"),
        burned_in=_text(dataset, "BurnedInAnnotation"),
        sop_class=_text(dataset, "SOPClassUID"),
        conversion=_text(dataset, "ConversionType"),
    )


def _check_depth(dataset: Dataset, facts: ImageFacts) -> None:
    if dataset.BitsAllocated not in (8, 16) or not 0 < dataset.BitsStored <= dataset.BitsAllocated:
        message = f"The DICOM file's pixels have a depth that cannot be read. {_AS_PICTURE}"
        raise InputRejected("unsupported_format", message, facts)
    if dataset.get("HighBit", dataset.BitsStored - 1) != dataset.BitsStored - 1:
        # Only the retired ACR-NEMA and early files have it so: PS3.5 8.1.1 now fixes the high bit.
        message = f"The DICOM file's pixels are not in the lowest bits: this cannot be read. {_AS_PICTURE}"
        raise InputRejected("unsupported_format", message, facts)


def _pixels(dataset: Dataset) -> npt.NDArray[Any]:
    """The stored values, [h, w], or colours, [h, w, 3]."""
    syntax, samples = dataset.file_meta.TransferSyntaxUID, dataset.SamplesPerPixel
    if syntax in uid.UncompressedTransferSyntaxes:
        return pixel_array(dataset, index=0)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == uid.RLELossless:
        size, depth = dataset.Rows * dataset.Columns, dataset.BitsAllocated // 8
        dataset.PixelData = unpacked_runs(frame, size, samples, depth)
        dataset.PlanarConfiguration = 1
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        return pixel_array(dataset, index=0)
    if coded_size(frame) != (dataset.Columns, dataset.Rows, samples):
        raise ValueError("the stream is of another size than the file says")
    return pixel_array(dataset, index=0, decoding_plugin="pylibjpeg")


def _grayscale(dataset: Dataset) -> Grayscale:
    """How the file says that its values are to be shown."""
    padding = _first(dataset.get("PixelPaddingValue"))
    limit = _first(dataset.get("PixelPaddingRangeLimit"))
    return Grayscale(
        bits=dataset.BitsStored,
        modality=_modality(dataset),
        voi=_palette(dataset) if dataset.PhotometricInterpretation == "PALETTE COLOR" else _voi(dataset),
        inverted=dataset.PhotometricInterpretation == "MONOCHROME1",
        padding=None if padding is None else (padding, padding if limit is None else limit),
    )


def _modality(dataset: Dataset) -> Rescale | LookUp | None:
    if dataset.get("ModalityLUTSequence"):
        return _table(dataset, dataset.ModalityLUTSequence[0])
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return None
    return Rescale(float(slope), float(intercept))


def _voi(dataset: Dataset) -> LookUp | Window | None:
    """The table, or else the first window that can be used."""
    if dataset.get("VOILUTSequence"):
        return _table(dataset, dataset.VOILUTSequence[0])
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is None or width is None:
        return None
    stated = _text(dataset, "VOILUTFunction")
    shape: Shape = next((shape for shape in SHAPES if shape == stated), "LINEAR")
    window = Window(float(center), float(width), shape)
    return window if window.is_usable else None


def _table(dataset: Dataset, item: Dataset) -> LookUp:
    count, first, _ = item.LUTDescriptor
    entries = _entries(dataset, item.LUTData, count)
    return LookUp(first, entries, white=float(entries.max()))  # the depth that is stated is often wrong


def _palette(dataset: Dataset) -> LookUp:
    """The grays of the colours."""
    count, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    tables = (dataset.get(f"{colour}PaletteColorLookupTableData") for colour in _PALETTE)
    colours = np.stack([_entries(dataset, table, count) for table in tables])
    return LookUp(first, np.array(_LUMA) @ colours, white=255 if colours.max() < 256 else 65535)


def _entries(dataset: Dataset, data: bytes | MutableSequence[int], count: int) -> npt.NDArray[np.float64]:
    """The entries of a table, which stand as numbers or as bytes, one or two for each."""
    count = count or 1 << 16
    if not isinstance(data, bytes):
        return np.asarray(data, np.float64)[:count]
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    kind = f"{order}u2" if len(data) >= 2 * count else "u1"
    return np.frombuffer(data, kind)[:count].astype(np.float64)


def _text(dataset: Dataset, keyword: str) -> str:
    value = _first(dataset.get(keyword))
    return "" if value is None else str(value).strip().upper()


def _first(value: Any) -> Any:
    """Of several values the first; None when there is none."""
    if isinstance(value, MutableSequence):
        return value[0] if value else None
    return None if value == "" else value
