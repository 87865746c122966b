"""Write all figures of an evaluation into one folder: `cxr evaluate --out`."""

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from model import SHIPPED
from model.evaluate.bootstrap import Bootstrap
from model.evaluate.folder import Evaluation
from model.evaluate.measure import Cases
from model.evaluate.metrics import Metrics
from model.evaluate.pictures import charts, gallery
from model.serve.engine import Engine
from pipeline.errors import UsageError

PRIVACY_NOTICE = "These files show patients' images: do not share them, and never commit them."


def write_report(
    evaluation: Evaluation, metrics: Metrics, weights: Path | None, out: Path, console: Console
) -> None:
    """Write figures and `metrics.json` into the folder `out` (see `figures.folder`).

    When trained weights lie beside the ONNX file, also write the loss curves and the table of layers.
    """
    (out / "metrics.json").write_text(metrics.model_dump_json(indent=1) + "\n", encoding="utf-8")
    figures = _figures(evaluation, metrics, out)
    for draw in track(figures, "drawing", console=console, transient=True, disable=not console.is_terminal):
        draw()
    beside = network_beside(weights or SHIPPED)
    if beside:
        _write_network(beside, Engine(weights).calibration.size, out, console)
    console.print(f"written: {out}. {PRIVACY_NOTICE}", markup=False, soft_wrap=True, highlight=False)


def _figures(evaluation: Evaluation, metrics: Metrics, out: Path) -> list[Callable[[], None]]:
    """Return the functions that draw the figures."""
    samples, findings = evaluation.samples, evaluation.findings
    cases = Cases.of(samples, findings)
    draws = Bootstrap(cases.patients)
    return [
        lambda: charts.confusion(cases, metrics, out / "confusion.png"),
        lambda: charts.curves(cases, draws, metrics, out / "curves.png"),
        lambda: charts.reliability(cases, draws, metrics, out / "reliability.png"),
        lambda: charts.probabilities(cases, out / "probabilities.png"),
        lambda: gallery.batch(samples, findings, cases, out / "batch.png"),
        lambda: gallery.most_wrong(samples, findings, cases, out / "most-wrong.png"),
    ]


def network_beside(weights: Path) -> Path | None:
    """Return the trained network of an ONNX file: one of the same name, or that of the run in the same
    folder.
    """
    names = (weights.with_suffix(".safetensors"), weights.with_name("network.safetensors"))
    return next((path for path in names if path.is_file()), None)


def history_of(network: Path) -> list[list[dict[str, float]]]:
    """Return the training history of each member, one entry per epoch; empty when none was recorded."""
    from safetensors import safe_open

    with safe_open(network, "np") as file:
        note = json.loads((file.metadata() or {}).get("history", "[]"))
    return note if isinstance(note, list) else []


def _write_network(network: Path, size: int, out: Path, console: Console) -> None:
    """Write loss curves and the table of layers, the only part of an evaluation that needs torch."""
    histories = history_of(network)
    if histories:
        charts.losses(histories, out / "losses.png")
    try:
        from model.evaluate.pictures.summary import write_summary

        console.print(write_summary(network, size, out / "model-summary.txt"), highlight=False)
    except (ImportError, UsageError) as error:
        console.print(f"no model summary: {error}", highlight=False)
