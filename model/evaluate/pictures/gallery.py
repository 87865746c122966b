"""Draw patients' images with the answers about them; they stay on the disk of the person who ran this."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from model.data import Sample
from model.evaluate.measure import Cases
from model.evaluate.pictures.figures import COLOURS, FAINT, NAMES, Axes, canvas, headline, show
from model.serve.overlay import blend, scale_of
from pipeline.verdict import Finding

_SIDE = 320  # pixels of a picture's longer side
RIGHT, WRONG = "#00856a", "#c4266b"  # distinguishable with colour blindness, and each has a sign
_BATCH, _COLUMNS = 24, 6
_WORST = 8


def thumbnail(path: Path) -> Image.Image:
    """Return an image of the data set, gray, shrunk for a figure with its aspect ratio kept."""
    with Image.open(path) as image:
        image.draft("L", (2 * _SIDE, 2 * _SIDE))
        gray = image.convert("L")
    gray.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return gray


def framed(gray: Image.Image) -> Image.Image:
    """Return the image centred in a black square, so that all pictures of a grid have one size."""
    square = Image.new(gray.mode, (max(gray.size), max(gray.size)))
    square.paste(gray, ((square.width - gray.width) // 2, (square.height - gray.height) // 2))
    return square


def batch(samples: Sequence[Sample], findings: Sequence[Finding | None], cases: Cases, path: Path) -> None:
    """Draw randomly chosen images, each marked as right, wrong, or undecided."""
    count = min(_BATCH, len(samples))
    chosen = np.sort(np.random.default_rng(0).choice(len(samples), count, replace=False))
    rows = math.ceil(count / _COLUMNS)
    with canvas(path, (12, 0.7 + 2.4 * rows), rows, _COLUMNS) as (figure, axes):
        headline(
            figure,
            f"{count} randomly chosen images",
            "The answer, and in grey the label in the data; ✓ right, ✗ wrong, ? undecided",
        )
        for place, index in enumerate(chosen):
            sign, colour = _mark(cases, index)
            show(axes[place], framed(thumbnail(samples[index].path)), colour)
            _caption(axes[place], f"{sign} {_said(findings[index])}", _truth(samples[index]), colour)
        for empty in axes[count:]:
            show(empty, None)


def most_wrong(
    samples: Sequence[Sample], findings: Sequence[Finding | None], cases: Cases, path: Path
) -> None:
    """Draw the images whose P is farthest from the truth, each beside its map."""
    worst = farthest(cases)[:_WORST]
    rows = math.ceil(len(worst) / 2)
    with canvas(path, (12, 0.7 + 3.32 * rows), rows, 4) as (figure, axes):
        headline(
            figure,
            f"The {len(worst)} images whose P is farthest from the truth",
            "Warm: evidence for pneumonia; cool: against it. Not a localisation. The data may also be wrong",
        )
        for place, index in enumerate(worst):
            finding = findings[index]
            assert finding is not None
            gray, (plain, mapped) = thumbnail(samples[index].path), axes[2 * place : 2 * place + 2]
            show(plain, framed(gray))
            show(mapped, framed(blend(gray, finding.map)))
            sign, colour = _mark(cases, index)
            _caption(plain, f"{sign} {_said(finding)}", _truth(samples[index]), colour)
            _caption(mapped, "", f"full colour at {scale_of(finding.map):.1f} logits", FAINT)
        for empty in axes[2 * len(worst) :]:
            show(empty, None)


def farthest(cases: Cases) -> list[int]:
    """Return the judged images ordered by the distance of P from the truth, the farthest first."""
    distance = np.abs(cases.truth - cases.probability)
    return [int(index) for index in np.argsort(-distance, kind="stable") if cases.judged[index]]


def _mark(cases: Cases, index: int) -> tuple[str, str]:
    """Return the sign and the colour of an answer."""
    if cases.called[index] in ("uncertain", "refused"):
        return "?", COLOURS[str(cases.called[index])]
    return ("✓", RIGHT) if cases.right[index] else ("✗", WRONG)


def _said(finding: Finding | None) -> str:
    return f"{finding.label}, P {finding.probability:.3f}" if finding else "refused"


def _truth(sample: Sample) -> str:
    return f"data: {NAMES[sample.label]}" + {1: ", viral", 0: ", bacterial", -1: ""}[sample.viral]


def _caption(axes: Axes, said: str, under: str, colour: str) -> None:
    axes.set_title(said, size=10, color=colour, pad=17)
    axes.text(0, 1.025, under, transform=axes.transAxes, size=8.5, color=FAINT, in_layout=False)
