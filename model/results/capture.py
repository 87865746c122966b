"""Draw a verdict's map over its X-ray as a secondary capture: a picture that any viewer of a PACS shows."""

import io

from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from model.results.belonging import Belonging
from model.results.objects import Names, concept, header
from model.serve.overlay import draw
from pipeline.dicom import codes
from pipeline.errors import NoResult
from pipeline.verdict import Verdict, doubt_of

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_JPEG = "ISO_10918_1"
_BAND = 74  # pixels, above the picture
_GROUND, _BANNER, _TEXT = "#3a1c10", "#ffb27d", "#e7ebf0"
_MOST_PIXELS = 4_000_000  # of a preview; ours have at most 1280 pixels a side


def build_capture(verdict: Verdict, belonging: Belonging, names: Names, preview: bytes) -> Dataset:
    """Return the capture of a classified verdict over the JPEG of its X-ray, in the study of its source."""
    picture, ratio = _drawn(verdict, preview)
    made = header(verdict, belonging, names, "capture", SECONDARY_CAPTURE)
    made.Modality, made.ConversionType = "OT", "WSD"
    made.SeriesNumber, made.SeriesDescription = 9902, "CXR Inbox: map, not for diagnosis"
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.BodyPartExamined, made.PatientOrientation = "CHEST", None  # not every source states the second
    made.DerivationDescription = "Activation map over the X-ray; not for diagnosis; does not locate disease"
    source = Dataset()
    source.ReferencedSOPClassUID = belonging["SOPClassUID"]
    source.ReferencedSOPInstanceUID = belonging["SOPInstanceUID"]
    source.PurposeOfReferenceCodeSequence = [concept(codes.PROCESSED)]
    made.SourceImageSequence = [source]
    has_text = belonging["BurnedInAnnotation"] == "YES" or "burned_in_text" in verdict.warnings
    made.BurnedInAnnotation = "YES" if has_text else "NO"
    made.LossyImageCompression, made.LossyImageCompressionMethod = "01", _JPEG
    made.LossyImageCompressionRatio = f"{ratio:.2f}"
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.Rows, made.Columns = picture.height, picture.width
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    pixels = picture.tobytes()
    made.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))
    return made


def _drawn(verdict: Verdict, preview: bytes) -> tuple[Image.Image, float]:
    """Return the picture below its band of words, and how much the X-ray had been compressed for it."""
    try:
        with Image.open(io.BytesIO(preview), formats=("JPEG",)) as file:
            if file.width * file.height > _MOST_PIXELS:
                raise NoResult("the X-ray's preview in the outbox is not one that this program writes")
            gray = file.convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NoResult(
            "the X-ray's preview in the outbox is damaged; delete its verdict to have it judged again"
        ) from error
    below = draw(gray, verdict)
    canvas = Image.new("RGB", (below.width, below.height + _BAND), _GROUND)
    canvas.paste(below, (0, _BAND))
    pen = ImageDraw.Draw(canvas)
    pen.text((24, 10), "NOT FOR DIAGNOSIS", _BANNER, ImageFont.load_default(26))
    pen.text((24, 44), _line(verdict), _TEXT, ImageFont.load_default(18))
    return canvas, gray.width * gray.height / len(preview)


def _line(verdict: Verdict) -> str:
    """Return the label, and who gave it."""
    assert verdict.finding is not None
    label = "no call" if doubt_of(verdict.warnings) else verdict.finding.label
    network = f", {verdict.model.name} {verdict.model.version}" if verdict.model else ""
    return f"Label of CXR Inbox{network}: {label}. Research software, unverified."
