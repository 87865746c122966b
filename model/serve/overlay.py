"""Draw the activation map over its X-ray, with its scale, as one picture that explains a verdict.

Colours and their meaning match the page (`web/static/map.js`): cool is evidence against pneumonia, warm is
evidence for it, in logits; values near zero are not drawn. Only Pillow is needed.
"""

import functools
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.serve.preprocess import Array
from pipeline.errors import UsageError
from pipeline.verdict import ActivationMap, Finding, Verdict, doubt_of

OPACITY = 0.6  # of the full colour, the page's initial value
LEAST_SCALE = 4.0  # logits: a map with less than this is drawn faint, not stretched to full colour
_WARM = np.array([[255, 214, 120], [255, 150, 50], [232, 62, 28]], np.float32)
_COOL = np.array([[150, 226, 255], [66, 150, 245], [54, 84, 214]], np.float32)
_QUIET, _FULL = 0.07, 0.85  # of the scale: where colour begins, and where it is strongest

_GROUND, _TEXT, _FAINT, _EDGE = "#0a0d11", "#e7ebf0", "#9aa6b4", "#252d37"
_LABELS = {"pneumonia": "#ff9d5c", "uncertain": "#e6cf83", "normal": "#74c4f2"}
_WIDTH, _TALLEST, _MARGIN = 1000, 1200, 24  # pixels; the X-ray fits between the margins
_FOOT, _WARNED = 142, 38  # pixels under the X-ray, and those of a line of warnings
_NOTICE = "No localisation of disease: the map shows what moved the network's answer. Not a medical device."
_BEHIND = 42  # grey level under the scale of colours
_COARSE = 4  # pixels from one computed colour to the next
_STEM_BYTES = 120  # of the source's stem kept in an overlay's name


class Heatmaps:
    """Write overlays into a folder, one for each path and content that was classified."""

    def __init__(self, folder: Path, sources: Iterable[Path]) -> None:
        """Make the folder; raise UsageError when that fails, or when it lies inside a source folder."""
        self._folder = folder
        for source in sources:
            if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
                raise UsageError(f"{folder} is inside {source}: its pictures would be classified, too")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be created ({error.strerror}); name another folder") from error

    def write(self, verdict: Verdict, preview: bytes) -> None:
        """Draw a classified verdict over its preview; raise UsageError when the file cannot be written."""
        path = self._folder / file_name(verdict)
        try:
            with Image.open(io.BytesIO(preview)) as gray:
                draw(gray.convert("L"), verdict).save(path, "JPEG", quality=90, subsampling=0)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def file_name(verdict: Verdict) -> str:
    """Return a name with the source's stem, and a hash of path and content that keeps equal stems apart."""
    source = verdict.source
    stem = re.sub(r"[^\w.-]+", "_", Path(source.key).stem).strip("._-") or "image"
    short = stem.encode()[:_STEM_BYTES].decode(errors="ignore")
    digest = hashlib.sha256(f"{source.sha256}\0{source.key}".encode()).hexdigest()[:12]
    return f"{short}.{digest}.jpeg"


def draw(gray: Image.Image, verdict: Verdict) -> Image.Image:
    """Return the X-ray with its map, the colour scale, and the answer: RGB, 1000 pixels wide."""
    finding = verdict.finding
    assert finding is not None
    picture = blend(_fitted(gray), finding.map)
    foot = _FOOT + (_WARNED if verdict.warnings else 0)
    canvas = Image.new("RGB", (_WIDTH, _MARGIN + picture.height + foot), _GROUND)
    canvas.paste(picture, ((_WIDTH - picture.width) // 2, _MARGIN))
    top = _MARGIN + picture.height + 20
    _draw_answer(ImageDraw.Draw(canvas), top, verdict, finding)
    _draw_scale(canvas, (_WIDTH // 2, top + 22, _WIDTH - _MARGIN, top + 36), scale_of(finding.map))
    _draw_foot(ImageDraw.Draw(canvas), top + 78, verdict.warnings)
    return canvas


def blend(gray: Image.Image, activation: ActivationMap, opacity: float = OPACITY) -> Image.Image:
    """Draw the map's colours over the part of an 8-bit gray image that it covers; return RGB of the same
    size.
    """
    width, height = gray.size
    left, top, right, bottom = activation.box
    box = (round(left * width), round(top * height), round(right * width), round(bottom * height))
    blended = gray.convert("RGB")
    if box[0] < box[2] and box[1] < box[3]:
        _paint(blended, box, activation, opacity)
    if box != (0, 0, width, height):  # the network did not see what lies outside the frame
        ImageDraw.Draw(blended).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=_FAINT)
    return blended


def _paint(
    picture: Image.Image, box: tuple[int, int, int, int], activation: ActivationMap, opacity: float
) -> None:
    """Draw the colours into the box: computed for every few pixels, and stretched to all by Pillow."""
    size = (box[2] - box[0], box[3] - box[1])
    width, height = (-(-side // _COARSE) for side in size)
    rgb, cover = colours(surface(np.array(activation.grid, np.float32), height, width) / scale_of(activation))
    layers = (rgb, 255 * opacity * cover)
    colour, mask = (
        Image.fromarray(np.rint(layer).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        for layer in layers
    )
    picture.paste(colour, box[:2], mask)


def scale_of(activation: ActivationMap) -> float:
    """Return the logits, for or against, that get the full colour."""
    return max(LEAST_SCALE, *(abs(value) for row in activation.grid for value in row))


def colours(values: Array) -> tuple[Array, Array]:
    """Map values [...] from -1 to 1 to colours [..., 3], 0 to 255, and to coverage, [...], 0 to 1."""
    size = np.minimum(np.abs(values), 1)
    places = np.linspace(0, 1, len(_WARM))
    channels = [
        np.where(values < 0, np.interp(size, places, cool), np.interp(size, places, warm))
        for cool, warm in zip(_COOL.T, _WARM.T, strict=True)
    ]
    t = np.clip((size - _QUIET) / (_FULL - _QUIET), 0, 1)
    return np.stack(channels, -1).astype(np.float32), (t * t * (3 - 2 * t)).astype(np.float32)


def surface(grid: Array, height: int, width: int) -> Array:
    """Interpolate a grid to a smooth surface, [height, width].

    It passes through every cell's centre and never exceeds the neighbouring values: Catmull-Rom clipped to
    the two middle values, down and then across.
    """
    return _stretched(_stretched(grid.T, width).T, height)


def _stretched(grid: Array, length: int) -> Array:
    """Interpolate [rows, columns] -> [length, columns]."""
    place = (np.arange(length, dtype=np.float32) + 0.5) / length * len(grid) - 0.5
    whole = np.floor(place).astype(int)
    t = (place - whole)[:, None]
    before, start, end, after = (grid[np.clip(whole + step, 0, len(grid) - 1)] for step in (-1, 0, 1, 2))
    bend = 2 * before - 5 * start + 4 * end - after + t * (3 * (start - end) + after - before)
    value = start + 0.5 * t * (end - before + t * bend)
    held: Array = np.clip(value, np.minimum(start, end), np.maximum(start, end)).astype(np.float32)
    return held


def _draw_answer(pen: ImageDraw.ImageDraw, top: int, verdict: Verdict, finding: Finding) -> None:
    pen.text((_MARGIN, top - 4), finding.label.capitalize(), _LABELS[finding.label], _font(32))
    if doubt_of(verdict.warnings):
        pen.text((_MARGIN, top + 42), "no probability; see the warnings below", _FAINT, _font(17))
        return
    chance = f"P(pneumonia) {finding.probability:.3f}"
    pen.text((_MARGIN, top + 40), chance, _TEXT, _font(20))
    after = _MARGIN + 14 + pen.textlength(chance, _font(20))
    pen.text((after, top + 42), f"at a prevalence of {finding.prevalence:.2f}", _FAINT, _font(17))


def _draw_foot(pen: ImageDraw.ImageDraw, top: int, warnings: Sequence[str]) -> None:
    if warnings:
        words = ", ".join(warnings).replace("_", " ")
        pen.text((_MARGIN, top), f"Warnings: {words}", _LABELS["uncertain"], _font(18))
        top += _WARNED
    pen.line((_MARGIN, top, _WIDTH - _MARGIN, top), _EDGE)
    pen.text((_MARGIN, top + 12), _NOTICE, _FAINT, _font(17))


def _draw_scale(canvas: Image.Image, box: tuple[int, int, int, int], scale: float) -> None:
    """Draw the colours at full strength, and what the two ends mean."""
    left, top, right, bottom = box
    ramp = np.tile(np.linspace(-1, 1, right - left, dtype=np.float32), (bottom - top, 1))
    rgb, cover = colours(ramp)
    bar = np.rint(_BEHIND + (rgb - _BEHIND) * cover[:, :, None]).astype(np.uint8)
    canvas.paste(Image.fromarray(bar), (left, top))
    pen = ImageDraw.Draw(canvas)
    pen.text((left, top - 6), "Evidence against", _FAINT, _font(16), "ls")
    pen.text((right, top - 6), "for  pneumonia", _FAINT, _font(16), "rs")
    middle, below = (left + right) // 2, bottom + 6
    for place, words, anchor in ((left, f"-{scale:.1f}", "la"), (middle, "0", "ma")):
        pen.text((place, below), words, _TEXT, _font(16), anchor)
    pen.text((right, below), f"+{scale:.1f}  logits", _TEXT, _font(16), "ra")


def _fitted(gray: Image.Image) -> Image.Image:
    """Return the image as large as fits the frame, even when it is small, so that the text keeps its size."""
    share = min((_WIDTH - 2 * _MARGIN) / gray.width, _TALLEST / gray.height)
    size = (max(1, round(gray.width * share)), max(1, round(gray.height * share)))
    return gray.resize(size, Image.Resampling.BICUBIC)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, which has no dash or minus sign, so a hyphen stands for both."""
    return ImageFont.load_default(size)
