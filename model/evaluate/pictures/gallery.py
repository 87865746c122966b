"""Pictures of patients with what was said of them. They stay on the disk of whoever made them."""

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
RIGHT, WRONG = "#00856a", "#c4266b"  # told apart by every eye, and each has its sign
_BATCH, _COLUMNS = 24, 6
_WORST = 8


def thumbnail(path: Path) -> Image.Image:
    """An image of the data set, gray, small enough for a figure; its aspect ratio is kept."""
    with Image.open(path) as image:
        image.draft("L", (2 * _SIDE, 2 * _SIDE))
        gray = image.convert("L")
    gray.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return gray


def framed(gray: Image.Image) -> Image.Image:
    """In the middle of a black square, so that all pictures of a grid are of one size."""
    square = Image.new(gray.mode, (max(gray.size), max(gray.size)))
    square.paste(gray, ((square.width - gray.width) // 2, (square.height - gray.height) // 2))
    return square


def batch(samples: Sequence[Sample], findings: Sequence[Finding | None], cases: Cases, path: Path) -> None:
    """Images drawn at random, each marked as right, wrong, or not decided."""
    count = min(_BATCH, len(samples))
    chosen = np.sort(np.random.default_rng(0).choice(len(samples), count, replace=False))
    rows = math.ceil(count / _COLUMNS)
    with canvas(path, (12, 0.7 + 2.4 * rows), rows, _COLUMNS) as (figure, axes):
        headline(
            figure,
            f"{count} images, drawn at random",
            "What was said, and in grey what the data says; ✓ right, ✗ wrong, ? not decided",
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
    """The images whose P is farthest from the truth, each beside its map."""
    worst = farthest(cases)[:_WORST]
    rows = math.ceil(len(worst) / 2)
    with canvas(path, (12, 0.7 + 3.32 * rows), rows, 4) as (figure, axes):
        headline(
            figure,
            f"The {len(worst)} images whose P is farthest from the truth",
            "Warm: evidence for pneumonia; cool: against it; no localisation. The data may err, too",
        )
        for place, index in enumerate(worst):
            finding = findings[index]
            assert finding is not None
            gray, (plain, mapped) = thumbnail(samples[index].path), axes[2 * place : 2 * place + 2]
            show(plain, framed(gray))
            show(mapped, framed(blend(gray, finding.map)))
            sign, colour = _mark(cases, index)
            _caption(plain, f"{sign} {_said(finding)}", _truth(samples[index]), colour)
            _caption(mapped, "", f"full colour: {scale_of(finding.map):.1f} logits", FAINT)
        for empty in axes[2 * len(worst) :]:
            show(empty, None)


def farthest(cases: Cases) -> list[int]:
    """The judged images, by the distance of P from the truth, the farthest first."""
    distance = np.abs(cases.truth - cases.probability)
    return [int(index) for index in np.argsort(-distance, kind="stable") if cases.judged[index]]


def _mark(cases: Cases, index: int) -> tuple[str, str]:
    """The sign and the colour of an answer."""
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
