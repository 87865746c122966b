"""Draw the two charts of docs/benchmarks.md, on white because GitHub shows them in light and dark mode."""

from pathlib import Path
from typing import Any

from model.evaluate.pictures.figures import COLOURS, FAINT, TEXT, canvas, headline

_OURS, _OTHERS = COLOURS["normal"], COLOURS["refused"]
_STEPS = {  # steps of a verdict's `timing_ms`, and the rest of the thread's time
    "fetch": ("read", "#cc79a7"),
    "decode": ("decode, preview", "#0072b2"),
    "infer": ("infer", "#d55e00"),
    "write": ("write preview", "#009e73"),
    "rest": ("other", "#8a94a0"),
}


def ways(compared: list[dict[str, Any]], path: Path) -> None:
    """Draw images per second of each way that ran, on a logarithmic scale."""
    shown = [way for way in compared if way["rate"]]
    rates = [way["rate"] for way in shown]
    with canvas(path, (8, 0.9 + 0.42 * len(shown))) as (figure, [axes]):
        headline(figure, "Images per second", "same machine, same images, same network; logarithmic")
        colours = [_OURS if way["name"].startswith("cxr") else _OTHERS for way in shown]
        axes.barh([way["name"] for way in shown], rates, color=colours, height=0.66)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(min(rates) / 2, max(rates) * 2)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", labelcolor=TEXT)
        for row, rate in enumerate(rates):
            axes.text(rate * 1.06, row, figures(rate), va="center")


def image(worker: dict[str, Any], path: Path) -> None:
    """Draw the time of one image by step, in the worker at full load."""
    spent = steps(worker)
    with canvas(path, (8, 1.9)) as (figure, [axes]):
        headline(figure, "One image in the worker", "milliseconds of a thread, all cores busy")
        left = 0.0
        for step, milliseconds in spent.items():
            name, colour = _STEPS[step]
            axes.barh([0], [milliseconds], left=left, color=colour, label=f"{name} {milliseconds:.1f}")
            left += milliseconds
        axes.set_xlim(0, left)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(spent), handlelength=1, columnspacing=1
        )
        axes.set_xlabel("ms", color=FAINT)


def steps(worker: dict[str, Any]) -> dict[str, float]:
    """Return the verdicts' own steps, and the rest of the thread's time: verdict, hashes, HTTP, waiting."""
    spent = dict(worker["timing_ms"])
    return {**spent, "rest": max(worker["thread_ms"] - sum(spent.values()), 0)}


def figures(value: float) -> str:
    """Format a rate with as many digits as are meaningful."""
    return f"{value:.0f}" if value >= 20 else f"{value:.2g}"
