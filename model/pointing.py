"""Measure whether the map points: does its maximum lie in opacities planted into normal X-rays?

`python -m model.pointing DATA [WEIGHTS]` takes the normal originals of the fixed fold. A pneumonia of the
data set has no outline to compare with; a planted opacity has. After the pointing game of Zhang et al. 2016,
arXiv:1608.00507. Of the map's evidence for pneumonia it also says how much lies outside the lungs, and
outside the body.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from scipy import ndimage

from model.data import load_samples
from model.decode import decode
from model.engine import Engine, prepare
from pipeline.errors import UsageError
from pipeline.ports import ImageFacts
from pipeline.settings import Settings

Gray = npt.NDArray[np.float32]  # [h, w], 0 to 255
Mask = npt.NDArray[np.bool_]

SIDE = 256  # pixels a side, at which lungs are looked for and maps are compared
SIZES = (0.12, 0.18, 0.26)  # diameters of the opacities, as shares of a side
_DENSITY = 0.75  # of the way from the lung's grey to that of the heart
_EDGE = 0.3  # of its density: what belongs to the opacity
_PLACED = 0.6  # of an opacity that lies in the lung, at least
_SEED = 5
_CENTRES = (0.5, 0.28), (0.5, 0.72)  # of the lungs in a chest X-ray, as shares of its height and width
_NEAR, _ASTRAY = 0.15, 0.14  # of a centre: where most of a lung lies; how far its own may be


@dataclass(frozen=True)
class Field:
    """Hold the masks of body and lungs, [SIDE, SIDE]; the right lung, which is on the left, comes first."""

    body: Mask
    lungs: tuple[Mask, Mask]


@dataclass(frozen=True)
class Pointing:
    """Hold the figures for the planted opacities of one size."""

    size: float
    planted: int
    hit: float  # the share whose maximum lies in the opacity
    outside_lungs: float  # the share of the map's positive mass, the mean over images
    outside_body: float


def find_field(gray: Gray) -> Field | None:
    """Find lungs by their own structure: the large dark areas within the bright body, one on each side.

    None where there are no such two, as in many pneumonias.
    """
    smooth = ndimage.gaussian_filter(gray, SIDE / 64)
    body = _between(_largest(_closed(smooth > _otsu(smooth), np.ones((SIDE // 20, SIDE // 20)))))
    body = _closed(body, np.ones((SIDE // 3, 1)))  # low in the lungs the wall is thin and dark
    inside = ndimage.binary_erosion(body, iterations=SIDE // 32)
    if not inside.any():
        return None
    dark = inside & (smooth < _otsu(smooth[inside]))
    dark = ndimage.binary_opening(dark, iterations=SIDE // 50)
    lungs = []
    for expected in _CENTRES:
        part = _largest(dark, _around(expected))
        part = ndimage.binary_fill_holes(ndimage.binary_closing(part, iterations=SIDE // 32))
        centre = np.divide(ndimage.center_of_mass(part), SIDE) if part.any() else np.zeros(2)
        if not 0.03 < part.mean() < 0.25 or np.abs(centre - expected).max() > _ASTRAY:
            return None
        lungs.append(part)
    return Field(body, (lungs[0], lungs[1]))


def plant(gray: Gray, field: Field, lung: int, size: float, chance: np.random.Generator) -> tuple[Gray, Mask]:
    """Return the image with a cloudy opacity of uneven outline in a lung, and where it is.

    It is as bright as lies between the lung and the heart, and what is under it shines through.
    """
    place = _centre(field.lungs[lung], size, chance)
    rows, columns = np.mgrid[:SIDE, :SIDE] - place[:, None, None]
    angle = np.arctan2(rows, columns)
    uneven = sum(
        chance.normal(0, 0.12 / wave) * np.cos(wave * angle + chance.uniform(0, 6.3)) for wave in range(1, 6)
    )
    distance = np.hypot(rows / chance.uniform(0.8, 1.2), columns) / (SIDE * size / 2 * (1 + uneven))
    cloud = 1 / (1 + np.exp(6 * (distance - 0.9)))
    cloud *= 1 + 0.25 * _texture(chance)
    both = field.lungs[0] | field.lungs[1]
    heart = float(np.quantile(gray[field.body & ~both], 0.7))
    dense = np.clip(cloud, 0, 1) * _DENSITY
    shown = gray + dense * np.maximum(heart - gray, 0)
    return shown.astype(np.float32), cloud > _EDGE


def play(images: list[bytes], engine: Engine) -> Iterator[Pointing]:
    """Plant in both lungs of each image that has them, one opacity at a time; one answer for each size."""
    fields = [(gray, field) for gray in map(_gray, images) if (field := find_field(gray))]
    if not fields:
        raise UsageError("in none of these images two lungs were found; name the normal X-rays")
    for size in SIZES:
        chance = np.random.default_rng(_SEED)
        seen = [
            _seen(engine, *plant(gray, field, lung, size, chance), field)
            for gray, field in fields
            for lung in (0, 1)
        ]
        hit, lungs, body = np.mean(seen, axis=0)
        yield Pointing(size, len(seen), float(hit), float(lungs), float(body))


def _seen(engine: Engine, gray: Gray, opacity: Mask, field: Field) -> tuple[bool, float, float]:
    image = Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8))
    pixels, box = prepare(image, ImageFacts("image/png", SIDE, SIDE), engine.calibration.size)
    left, top, right, bottom = box  # of the image, what the network saw
    grid = Image.fromarray(engine.outputs(pixels)[1][0])
    shown = np.full((SIDE, SIDE), -np.inf, np.float32)
    shown[top:bottom, left:right] = np.asarray(
        grid.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    )
    mass = np.maximum(shown, 0) + np.float32(1e-9)
    lungs = ndimage.binary_dilation(field.lungs[0] | field.lungs[1], iterations=SIDE // 40)
    where = np.unravel_index(int(shown.argmax()), shown.shape)
    return bool(opacity[where]), _share(mass, ~lungs), _share(mass, ~field.body)


def _share(mass: Gray, where: Mask) -> float:
    return float(mass[where].sum() / mass.sum())


def _gray(data: bytes) -> Gray:
    gray, _, _ = decode(data, Settings().max_pixels)
    return np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0), np.float32)


def _centre(lung: Mask, size: float, chance: np.random.Generator) -> npt.NDArray[np.float64]:
    """A place in the lung at which most of an opacity lies in it; the deepest where there is none."""
    depth = ndimage.uniform_filter(lung.astype(np.float32), int(SIDE * size * 0.8))
    places = np.argwhere(lung & (depth >= min(_PLACED, float(depth[lung].max()))))
    return np.asarray(places[chance.integers(len(places))], np.float64)


def _texture(chance: np.random.Generator) -> Gray:
    noise = ndimage.gaussian_filter(chance.normal(size=(SIDE, SIDE)), SIDE / 48)
    return np.asarray(noise / noise.std(), np.float32)


def _largest(mask: Mask, within: Mask | None = None) -> Mask:
    """The connected part that is largest, all in all or within a part of the image."""
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(labels[within] if within is not None else labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax()) if sizes.any() else np.zeros_like(mask)


def _around(centre: tuple[float, float]) -> Mask:
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    return np.asarray(np.hypot(rows - centre[0], columns - centre[1]) < _NEAR)


def _closed(mask: Mask, structure: npt.NDArray[np.float64]) -> Mask:
    """Close gaps smaller than a structure; what touches the image's edge goes on beyond it."""
    margin = max(structure.shape)
    closed = ndimage.binary_closing(np.pad(mask, margin, "edge"), structure)
    return np.asarray(closed[margin:-margin, margin:-margin])


def _between(mask: Mask) -> Mask:
    """In each row, all from the first place of the mask to the last."""
    return np.logical_or.accumulate(mask, 1) & np.logical_or.accumulate(mask[:, ::-1], 1)[:, ::-1]


def _otsu(values: Gray) -> float:
    """The level that parts dark from bright best (Otsu 1979, doi 10.1109/TSMC.1979.4310076)."""
    counts = np.histogram(values, 256, (0, 256))[0].astype(np.float64)
    levels = np.arange(256)
    below, sums = counts.cumsum(), (counts * levels).cumsum()
    above = below[-1] - below
    parted = (below > 0) & (above > 0)
    if not parted.any():
        return float(values.max())  # all of one level
    means = sums[parted] / below[parted], (sums[-1] - sums[parted]) / above[parted]
    between = below[parted] * above[parted] * (means[0] - means[1]) ** 2
    return float(levels[parted][between.argmax()])


def main(data: Path, weights: Path | None = None) -> None:
    """Print a line for each size."""
    normal = [sample for sample in load_samples(data) if sample.fold == "report" and sample.label == 0]
    for seen in play([sample.path.read_bytes() for sample in normal], Engine(weights)):
        Console(soft_wrap=True).print(
            f"{seen.size:.0%} of a side: {seen.planted} planted, the maximum in {seen.hit:.1%};"
            f" evidence outside the lungs {seen.outside_lungs:.0%}, outside the body {seen.outside_body:.0%}"
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
