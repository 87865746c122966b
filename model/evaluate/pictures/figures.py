"""Define how every figure looks and how it is saved; no other module imports matplotlib.

Dark text on white, no more ink than the data needs, labels beside the things they name. The colours are those
of Okabe and Ito (2008), which people with colour blindness can tell apart; each class keeps its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from pipeline.errors import UsageError

__all__ = [
    "COLOURS",
    "FAINT",
    "NAMES",
    "TEXT",
    "Axes",
    "Figure",
    "MaxNLocator",
    "canvas",
    "folder",
    "headline",
    "show",
]

TEXT, FAINT, GRID = "#1b2430", "#66717e", "#e4e8ed"
COLOURS = {
    "normal": "#0072b2",
    "pneumonia": "#d55e00",
    "bacterial": "#d55e00",
    "viral": "#e8a06a",
    "uncertain": "#b8900b",
    "refused": "#8a94a0",
}
NAMES = ("normal", "pneumonia")  # of the labels 0 and 1
_DPI = 150
_UNSAID = {".png": {"Software": None}, ".svg": {"Date": None}}  # so that equal figures are equal files
_STYLE = {
    "figure.facecolor": "white",
    "svg.hashsalt": "cxr",
    "font.family": "DejaVu Sans",  # ships with matplotlib, so a figure looks the same everywhere
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": "#aab3bd",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


@contextmanager
def canvas(
    path: Path, size: tuple[float, float], rows: int = 1, columns: int = 1, ratios: Sequence[float] = ()
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield a figure of `size` inches with a grid of axes, saved to `path` (PNG or SVG) when the block ends.

    `ratios` are the heights of the rows. No state of matplotlib is changed.
    """
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]  # the stub lists each key by name
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, height_ratios=ratios or None)
        yield figure, list(axes.ravel())
        figure.savefig(path, dpi=_DPI, metadata=_UNSAID[path.suffix])


def headline(figure: Figure, title: str, under: str = "") -> None:
    """Write the figure's title at its top left, with `under` in a smaller line below."""
    height = figure.get_figheight()
    room = (0.62 if under else 0.4) / height
    figure.text(0.012, 1 - 0.1 / height, title, size=14, weight="bold", va="top")
    figure.text(0.012, 1 - 0.37 / height, under, size=9.5, color=FAINT, va="top")
    figure.get_layout_engine().set(rect=(0.006, 0.008, 0.988, 0.99 - room))  # type: ignore[union-attr,call-arg]


def show(axes: Axes, picture: Image.Image | None, edge: str | None = None) -> None:
    """Show a picture, gray or in colour, with a coloured frame; None leaves the place empty."""
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=bool(edge), color=edge or "none", linewidth=3)
    if picture is None:
        axes.set_axis_off()
    else:
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")


def folder(out: Path) -> None:
    """Make the folder for figures of patients and hide a new one from git; raise UsageError on failure."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not any(out.iterdir()):  # a folder with contents is left as it is
            (out / ".gitignore").write_text("# Patients' images: never commit them.\n*\n")
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}); name another --out") from error
