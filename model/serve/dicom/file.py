"""Read DICOM files: the relevant tags and the pixels; nothing else is kept.

`model.serve.files.decode` imports this module when a DICOM file comes, and this module imports the decoder
that the file needs.
"""

import re
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.serve.dicom.elements import CutShortError, Elements, OvergrownError, read_elements, read_header
from model.serve.dicom.grayscale import SHAPES, Grayscale, LookUp, Rescale, Shape, Window
from model.serve.dicom.radiograph import Tags
from model.serve.dicom.stored import AS_PICTURE, Packing, Stored, check_depth, size_of, stored_values
from model.serve.files.deep import LUMA
from pipeline.errors import InputRejected
from pipeline.records import ImageFacts

_DAMAGED = "The DICOM file is damaged: it cannot be decoded. Export the X-ray again and drop the new file."
_CUT_SHORT = "The DICOM file is incomplete: its end is missing. Export the X-ray again and drop the new file."
_NO_PIXELS = "The DICOM file has no pixels. Export the X-ray again and drop the new file."
_DROP_IMAGE = "Drop the file of a frontal chest X-ray."
_HEADER_BYTES, _BYTES_A_PIXEL = 1 << 24, 6  # limits of an inflated file; 3 colours of 16 bits

_STANDARD = "1.2.840.10008."
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_PACKINGS: tuple[tuple[str, Packing], ...] = (  # by the number after 1.2.840.10008.1.2
    (r"|\.1|\.1\.98|\.1\.99|\.2", "none"),
    (r"\.5", "runs"),
    (r"\.4\.(5\d|6[0-6]|70)", "JPEG"),
    (r"\.4\.8[01]", "JPEG-LS"),
    (r"\.4\.(90|91|20[123])", "JPEG 2000"),
)
_UNREADABLE_PACKINGS = (
    (r"\.4\.10\d|\.7\.\d", f"The DICOM file is a video. {_DROP_IMAGE}"),
    (r"\.4\.(9[45]|20[45])", f"The DICOM file only refers to an image stored elsewhere. {_DROP_IMAGE}"),
    (r".*", f"The DICOM file uses a compression that is not supported. {AS_PICTURE}"),
)
_DIRECTORY = "1.2.840.10008.1.3.10"
_NO_IMAGES = (  # by the number after 1.2.840.10008.5.1.4.1.1, or the modality
    (r"\.104\.1", "DOC", "a PDF document"),
    (r"\.104(\.\d+)?", "", "a document"),
    (r"\.88\.59", "KO", "a list of selected images"),
    (r"\.88(\.\d+)*", "SR", "a structured report"),
    (r"\.11(\.\d+)*", "PR", "a presentation state"),
    (r"\.9(\.\d+)*", "ECG", "a recorded waveform"),
    (r"\.481(\.\d+)*", "RTPLAN", "a radiotherapy plan"),
)

_PALETTE = ("Red", "Green", "Blue")
_REGIONS = ("AnatomicRegionSequence", "AnatomicRegionModifierSequence", "PrimaryAnatomicStructureSequence")
_VIEWS = ("ViewCodeSequence", "ViewModifierCodeSequence")
_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime")
_MOST_SLOPE = 1e12


class DicomFile:
    """Open one radiograph; opening any file either succeeds or raises InputRejected."""

    def __init__(self, data: bytes, max_pixels: int, keep_uid: bool) -> None:
        try:
            self._packing, self._elements = _read(data, _HEADER_BYTES + _BYTES_A_PIXEL * max_pixels)
            _check_image(self._elements)
            tags = _tags(self._elements)
            self.frames = max(int(self._elements.decimal("NumberOfFrames") or 1), 1)
            self.warnings = tags.warnings
            self._turn = _turns(tags.orientation)
            self.facts = self._facts(keep_uid)
            if tags.refusal:
                raise InputRejected("not_a_chest_xray", tags.refusal, self.facts)
            if self._packing in ("none", "runs"):
                check_depth(self._elements)
        except InputRejected as refused:
            refused.facts = refused.facts or getattr(self, "facts", None)
            raise
        except CutShortError as error:
            raise InputRejected("unreadable", _CUT_SHORT) from error
        except OvergrownError as error:
            message = f"The DICOM file has more elements than any X-ray. {AS_PICTURE}"
            raise InputRejected("unsupported_format", message) from error
        except Exception as error:  # a parser may raise anything on an untrusted file
            raise InputRejected("unreadable", _DAMAGED) from error

    def load(self) -> Image.Image:
        """Return the image as a viewer shows it, upright, in 8-bit gray, and without the padding around it.

        Raises any exception when the file is damaged.
        """
        if not self._elements.value("PixelData"):
            raise InputRejected("unreadable", _NO_PIXELS, self.facts)
        image = stored_values(self._elements, self._packing)
        shown = Image.fromarray(_grayscale(self._elements, image).show(image.values))
        for turn in self._turn:
            shown = shown.transpose(turn)
        return shown

    def _facts(self, keep_uid: bool) -> ImageFacts:
        name = self._elements.text("SOPInstanceUID")
        kept = keep_uid and re.fullmatch(r"[0-9.]{1,64}", name)
        columns, rows = size_of(self._elements)
        if Image.Transpose.TRANSPOSE in self._turn:
            columns, rows = rows, columns
        return ImageFacts("application/dicom", columns, rows, name if kept else None)


def _read(data: bytes, most: int) -> tuple[Packing | None, Elements]:
    """Return how the pixels are packed (None when not stated) and the relevant elements."""
    header, rest = read_header(data)
    if header.text("MediaStorageSOPClassUID") == _DIRECTORY:
        message = f"The DICOM file is a directory (DICOMDIR), not an image. {_DROP_IMAGE}"
        raise InputRejected("unsupported_format", message)
    syntax = header.text("TransferSyntaxUID")
    packing = _packing(syntax) if syntax else None
    if syntax == DEFLATED:
        rest = memoryview(_inflated(rest, most))
    elements = read_elements(rest, syntax == BIG_ENDIAN)
    elements.values = header.values | elements.values
    return packing, elements


def _packing(syntax: str) -> Packing:
    if not syntax.startswith(_STANDARD):
        message = f"The DICOM file is compressed in a manufacturer's private format. {AS_PICTURE}"
        raise InputRejected("unsupported_format", message)
    number = syntax.removeprefix(f"{_STANDARD}1.2")
    known = next((packing for pattern, packing in _PACKINGS if re.fullmatch(pattern, number)), None)
    if known:
        return known
    message = next(text for pattern, text in _UNREADABLE_PACKINGS if re.fullmatch(pattern, number))
    raise InputRejected("unsupported_format", message)


def _inflated(data: memoryview, most: int) -> bytes:
    """Inflate a deflated file, which may grow a thousandfold, up to a limit."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    whole = inflater.decompress(data, most)
    if inflater.unconsumed_tail:
        raise InputRejected("too_many_pixels", f"The DICOM file is too large when decompressed. {AS_PICTURE}")
    return whole


def _check_image(elements: Elements) -> None:
    """Raise InputRejected for a file that is not an image."""
    pixels = ("PixelData", "FloatPixelData", "DoubleFloatPixelData", "Rows")
    if any(word in elements for word in pixels):
        return
    sop_class = elements.text("SOPClassUID") or elements.text("MediaStorageSOPClassUID")
    number, modality = sop_class.removeprefix(f"{_STANDARD}5.1.4.1.1"), elements.text("Modality")
    kind = next(
        (
            kind
            for pattern, word, kind in _NO_IMAGES
            if re.fullmatch(pattern, number) or modality == word != ""
        ),
        None,
    )
    message = f"The DICOM file is {kind}, not an image." if kind else "The DICOM file contains no image."
    raise InputRejected("unsupported_format", f"{message} {_DROP_IMAGE}")


def _tags(elements: Elements) -> Tags:
    return Tags(
        modality=elements.text("Modality"),
        body_part=elements.text("BodyPartExamined"),
        regions=tuple(_codes(elements, _REGIONS)),
        views=(*elements.texts("ViewPosition"), *_codes(elements, _VIEWS)),
        orientation=elements.texts("PatientOrientation"),
        age=elements.text("PatientAge"),
        born=elements.text("PatientBirthDate"),
        taken=tuple(map(elements.text, _DATES)),
        burned_in=elements.text("BurnedInAnnotation"),
        sop_class=elements.text("SOPClassUID") or elements.text("MediaStorageSOPClassUID"),
        conversion=elements.text("ConversionType"),
        intent=elements.text("PresentationIntentType"),
    )


def _codes(elements: Elements, words: tuple[str, ...]) -> list[str]:
    """Return the codes and meanings of sequences, and of the modifiers in their items."""
    items = [item for word in words for item in elements.items(word)]
    items += [inner for item in items for word in words for inner in item.items(word)]
    return [item.text(word) for item in items for word in ("CodeValue", "LongCodeValue", "CodeMeaning")]


def _turns(orientation: tuple[str, ...]) -> tuple[Image.Transpose, ...]:
    """Return the turns after which rows lead to the patient's left and columns to the feet: a frontal X-ray.

    Returns none when the tag says too little.
    """
    row, column = (text[:1] for text in (*orientation, "", "")[:2])
    turns: list[Image.Transpose] = []
    if row in ("H", "F") and column in ("L", "R"):
        turns.append(Image.Transpose.TRANSPOSE)
        row, column = column, row
    if row not in ("L", "R") or column not in ("H", "F"):
        return ()
    turns += [Image.Transpose.FLIP_LEFT_RIGHT] * (row == "R") + [Image.Transpose.FLIP_TOP_BOTTOM] * (
        column == "H"
    )
    return tuple(turns)


def _grayscale(elements: Elements, image: Stored) -> Grayscale:
    """Return how the file says that its values should be shown."""
    if image.is_colour:
        return Grayscale(image.bits)
    photometric, is_signed = elements.text("PhotometricInterpretation"), image.values.dtype.kind == "i"
    padding = elements.integer("PixelPaddingValue", is_signed)
    limit = elements.integer("PixelPaddingRangeLimit", is_signed)
    if padding is not None and not is_signed:
        padding, limit = padding & 0xFFFF, limit if limit is None else limit & 0xFFFF
    return Grayscale(
        bits=image.bits,
        modality=_modality(elements, is_signed),
        palette=_palette(elements) if photometric == "PALETTE COLOR" else None,
        views=[*_tables(elements, "VOILUTSequence", is_signed), *_windows(elements)],
        inverted=photometric == "MONOCHROME1",
        padding=None if padding is None else (padding, padding if limit is None else limit),
    )


def _modality(elements: Elements, is_signed: bool) -> Rescale | LookUp | None:
    for table in _tables(elements, "ModalityLUTSequence", is_signed):
        return table
    slope, intercept = elements.decimal("RescaleSlope"), elements.decimal("RescaleIntercept")
    if (
        slope is None
        or intercept is None
        or not (0 < abs(slope) < _MOST_SLOPE and abs(intercept) < _MOST_SLOPE)
    ):
        return None
    return Rescale(slope, intercept)


def _windows(elements: Elements) -> list[Window]:
    stated = elements.text("VOILUTFunction")
    shape: Shape = next((shape for shape in SHAPES if shape == stated), "LINEAR")
    pairs = zip(elements.decimals("WindowCenter"), elements.decimals("WindowWidth"), strict=False)
    windows = [
        Window(center, width, shape) for center, width in pairs if center is not None and width is not None
    ]
    return [window for window in windows if window.is_usable]


def _tables(elements: Elements, word: str, is_signed: bool) -> list[LookUp]:
    """Return the tables of a sequence, without empty ones."""
    found = []
    for item in elements.items(word):
        described, value = item.integers("LUTDescriptor", is_signed), item.value("LUTData")
        if len(described) < 2 or not value:
            continue
        entries = _entries(value.data, described[0] & 0xFFFF, elements.order)
        if len(entries):
            white = float(entries.max())  # the stated depth is often wrong
            found.append(LookUp(described[1], entries, white))
    return found


def _palette(elements: Elements) -> LookUp:
    """Return the grays of the palette's colours."""
    words = [f"{colour}PaletteColorLookupTable" for colour in _PALETTE]
    count, first, *_ = elements.integers(f"{words[0]}Descriptor")
    values = [elements.value(f"{word}Data") for word in words]
    colours = np.stack([_entries(value.data, count, elements.order) for value in values if value])
    return LookUp(first, np.array(LUMA) / sum(LUMA) @ colours, white=255 if colours.max() < 256 else 65535)


def _entries(data: memoryview, count: int, order: str) -> npt.NDArray[np.float64]:
    """Return the entries of a table, one or two bytes each."""
    count = count or 1 << 16
    kind = f"{order}u2" if len(data) >= 2 * count else "u1"
    return np.frombuffer(data, kind)[:count].astype(np.float64)
