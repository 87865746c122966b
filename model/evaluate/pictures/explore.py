"""Show a data set before training: counts, samples, sizes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.data import Fold, Origin, Sample, load_origins, load_samples
from model.evaluate.bootstrap import Floats
from model.evaluate.measure import Ints
from model.evaluate.pictures.figures import COLOURS, NAMES, TEXT, Axes, canvas, folder, headline, show
from model.evaluate.pictures.gallery import framed, thumbnail

FOLDS: dict[Fold, str] = {"train": "training", "validation": "validation", "report": "fixed fold"}
_EACH = 7  # sample images of a class


@dataclass(frozen=True)
class DataSet:
    """Hold the images of a folder, each once, and their properties before any resizing."""

    samples: list[Sample]
    origins: list[Origin]

    @property
    def kinds(self) -> list[str]:
        """Return the kinds that occur."""
        seen = {kind_of(sample) for sample in self.samples}
        return [kind for kind in ("normal", "bacterial", "viral", "pneumonia") if kind in seen]


def kind_of(sample: Sample) -> str:
    """Return normal, bacterial, viral, or pneumonia when the subtype is unknown."""
    return {1: "viral", 0: "bacterial", -1: NAMES[sample.label]}[sample.viral]


def explore_folder(data: Path, out: Path, console: Console) -> list[Path]:
    """Write the figures of the data under `data` into `out`, print a summary, and return the files' paths.

    Raises UsageError when `data` holds no such images.
    """
    folder(out)
    with console.status("reading the images"):
        samples = load_samples(data)
        found = DataSet(samples, load_origins(data, samples))
    console.print(fold_table(found))
    figures = {"classes.png": balance, "samples.png": examples, "sizes.png": sizes}
    paths = [out / name for name in figures]
    drawn = zip(paths, figures.values(), strict=True)
    quiet = not console.is_terminal
    for path, draw in track(drawn, "drawing", len(paths), console=console, transient=True, disable=quiet):
        draw(found, path)
    return paths


def fold_table(found: DataSet) -> Table:
    """Build a table of the patients and images of each fold."""
    kinds = found.kinds
    table = Table(title=f"{len(found.samples):,} images, each counted once", title_justify="left")
    table.add_column("fold")
    for name in ("patients", "images", *kinds, "pneumonia, all"):
        table.add_column(name, justify="right")
    for fold, name in [*FOLDS.items(), (None, "all")]:
        members = [sample for sample in found.samples if fold in (None, sample.fold)]
        counts = Counter(kind_of(sample) for sample in members)
        share = np.mean([sample.label for sample in members]) if members else 0
        patients = len({sample.patient for sample in members})
        figures = (patients, len(members), *(counts[kind] for kind in kinds))
        table.add_row(
            name, *(f"{figure:,}" for figure in figures), f"{share:.0%}", end_section=fold == "report"
        )
    return table


def balance(found: DataSet, path: Path) -> None:
    """Draw bars of both classes in every fold with their counts, pneumonia by subtype."""
    folds = [fold for fold in FOLDS if any(sample.fold == fold for sample in found.samples)]
    with canvas(path, (10, 0.9 + 1.3 * len(folds))) as (figure, (axes,)):
        patients = len({sample.patient for sample in found.samples})
        headline(figure, "Classes in each fold", f"{len(found.samples):,} images of {patients:,} patients")
        ticks = []
        for row, fold in enumerate(folds):
            members = [sample for sample in found.samples if sample.fold == fold]
            counts = Counter(kind_of(sample) for sample in members)
            _bars(axes, row, counts)
            ticks.append(f"{FOLDS[fold]}\n{len({s.patient for s in members}):,} patients")
        axes.set_yticks(range(len(folds)), ticks, color=TEXT)
        axes.set(ylim=(len(folds) - 0.5, -0.5))
        axes.grid(visible=False)
        axes.set_xticks([])  # every bar is labelled with its count
        axes.spines.bottom.set_visible(False)


def _bars(axes: Axes, row: int, counts: Counter[str]) -> None:
    """Draw one bar for normal and, below it, one for pneumonia, in parts, with their counts."""
    for height, kinds in ((row - 0.19, ("normal",)), (row + 0.19, ("bacterial", "viral", "pneumonia"))):
        left = 0
        for kind in filter(counts.__getitem__, kinds):
            axes.barh(height, counts[kind], 0.34, left, color=COLOURS[kind], edgecolor="white")
            left += counts[kind]
        parts = ", ".join(f"{kind} {counts[kind]:,}" for kind in kinds if counts[kind])
        total = f"pneumonia {left:,}: {parts}" if len(kinds) > 1 and parts.count(",") else parts
        axes.annotate(total, (left, height), (6, 0), textcoords="offset points", va="center", size=9.5)


def examples(found: DataSet, path: Path) -> None:
    """Draw a row of randomly chosen images of each kind."""
    kinds = found.kinds
    random = np.random.default_rng(0)
    with canvas(path, (13, 0.75 + 2.25 * len(kinds)), len(kinds), _EACH) as (figure, axes):
        headline(figure, "Images of each kind, drawn at random", "As they are stored")
        for row, kind in enumerate(kinds):
            places = axes[row * _EACH : (row + 1) * _EACH]
            members = [sample for sample in found.samples if kind_of(sample) == kind]
            chosen = random.permutation(len(members))[:_EACH]
            for place in places:
                show(place, None)
            for place, index in zip(places, chosen, strict=False):
                place.set_axis_on()
                show(place, framed(thumbnail(members[index].path)))
            places[0].set_title(f"{kind}, {len(members):,} images", color=COLOURS[NAMES[kind != "normal"]])


def sizes(found: DataSet, path: Path) -> None:
    """Draw width, height and aspect ratio of the originals by class, which a network could use to cheat."""
    known = [
        (sample.label, origin.width, origin.height)
        for sample, origin in zip(found.samples, found.origins, strict=True)
        if origin.width and origin.height
    ]
    labels, width, height = np.array(known).T
    with canvas(path, (11.5, 5.2), columns=2) as (figure, (cloud, bars)):
        headline(
            figure,
            f"Sizes of the originals, where known: {len(known):,} images",
            "If they differ by class, a network that sees them can cheat; ours sees squares",
        )
        _cloud(cloud, labels, width, height)
        _ratios(bars, labels, width / height)


def _cloud(axes: Axes, labels: Ints, width: Ints, height: Ints) -> None:
    mixed = np.random.default_rng(0).permutation(len(labels))  # so that no class hides the other
    colours = np.array([COLOURS[name] for name in NAMES])[labels]
    axes.scatter(width[mixed], height[mixed], s=9, c=colours[mixed].tolist(), alpha=0.45, linewidths=0)
    axes.set(
        title="Width and height, pixels", xlabel="width", ylabel="height", xlim=(0, None), ylim=(0, None)
    )


def _ratios(axes: Axes, labels: Ints, ratio: Floats) -> None:
    least, most = np.quantile(ratio, [0.002, 0.998]).tolist()
    bins = np.linspace(least - 0.05, most + 0.05, 46).tolist()
    for label, name in enumerate(NAMES):
        if label not in labels:
            continue
        values, colour = np.clip(ratio[labels == label], bins[0], bins[-1]), COLOURS[name]
        shares, _ = np.histogram(values, bins)
        axes.stairs(100 * shares / len(values), bins, fill=True, alpha=0.25, color=colour)
        axes.stairs(100 * shares / len(values), bins, linewidth=1.6, color=colour)
        words, height = f"{name}: median {np.median(values):.2f}", 0.97 - 0.075 * label
        inside = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.99, height, words, inside, color=colour, weight="bold")
    axes.set(title="Aspect ratio", xlabel="width / height", ylabel="% of the class", ylim=(0, None))
