"""Measure whether the map points: does its maximum lie in opacities planted into normal X-rays?

Usage: `python -m model.evaluate.pointing DATA [WEIGHTS]`, which uses the normal originals of the fixed fold.
The data set has no outlines of pneumonias to compare with; a planted opacity has one. After the pointing game
of Zhang et al. 2016, arXiv:1608.00507. It also measures how much of the map's evidence for pneumonia lies
outside the lungs, and outside the body.
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
from model.evaluate.bootstrap import Mask
from model.evaluate.lungs import SIDE, Field, Gray, find_field
from model.serve.engine import Engine, prepare
from model.serve.files.decode import decode
from pipeline.errors import UsageError
from pipeline.records import ImageFacts
from pipeline.settings import Settings

SIZES = (0.12, 0.18, 0.26)  # diameters of the opacities, as shares of a side
_DENSITY = 0.75  # share of the way from the lung's grey to the heart's
_EDGE = 0.3  # share of the density above which a pixel belongs to the opacity
_PLACED = 0.6  # least share of an opacity that lies in the lung
_SEED = 5


@dataclass(frozen=True)
class Pointing:
    """Hold the figures for the planted opacities of one size."""

    size: float
    planted: int
    hit: float  # share of images whose maximum lies in the opacity
    outside_lungs: float  # share of the map's positive mass, mean over images
    outside_body: float


def plant_cloud(
    gray: Gray, field: Field, lung: int, size: float, chance: np.random.Generator
) -> tuple[Gray, Mask]:
    """Return the image with a cloudy opacity of uneven outline in a lung, and the mask of the opacity.

    Its brightness lies between that of the lung and the heart; the structures under it shine through.
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
    """Plant one opacity at a time in both lungs of each image that has them; yield a result for each size."""
    fields = [(gray, field) for gray in map(_gray, images) if (field := find_field(gray))]
    if not fields:
        raise UsageError("no image shows two lungs that could be found; name a folder of normal X-rays")
    for size in SIZES:
        chance = np.random.default_rng(_SEED)
        seen = [
            _seen(engine, *plant_cloud(gray, field, lung, size, chance), field)
            for gray, field in fields
            for lung in (0, 1)
        ]
        hit, lungs, body = np.mean(seen, axis=0)
        yield Pointing(size, len(seen), float(hit), float(lungs), float(body))


def _seen(engine: Engine, gray: Gray, opacity: Mask, field: Field) -> tuple[bool, float, float]:
    image = Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8))
    pixels, box, _ = prepare(image, ImageFacts("image/png", SIDE, SIDE), engine.calibration.size)
    left, top, right, bottom = box  # the part of the image that the network saw
    grid = Image.fromarray(engine.outputs(pixels).maps[0])
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
    """Choose a place in the lung where most of an opacity fits; the deepest place when there is none."""
    depth = ndimage.uniform_filter(lung.astype(np.float32), int(SIDE * size * 0.8))
    places = np.argwhere(lung & (depth >= min(_PLACED, float(depth[lung].max()))))
    return np.asarray(places[chance.integers(len(places))], np.float64)


def _texture(chance: np.random.Generator) -> Gray:
    noise = ndimage.gaussian_filter(chance.normal(size=(SIDE, SIDE)), SIDE / 48)
    return np.asarray(noise / noise.std(), np.float32)


def _main(data: Path, weights: Path | None = None) -> None:
    """Print a line for each size."""
    normal = [sample for sample in load_samples(data) if sample.fold == "report" and sample.label == 0]
    for seen in play([sample.path.read_bytes() for sample in normal], Engine(weights)):
        Console(soft_wrap=True).print(
            f"{seen.size:.0%} of a side: {seen.planted} planted, the maximum in {seen.hit:.1%};"
            f" evidence outside the lungs {seen.outside_lungs:.0%}, outside the body {seen.outside_body:.0%}"
        )


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
