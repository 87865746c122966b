"""Judge labelled images with the serving engine and measure the answers."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from model.data import CLASSES, Origin, Sample, load_origins, load_samples
from model.evaluate.bootstrap import METHOD, Metric
from model.evaluate.measure import measure
from model.evaluate.metrics import AtThreshold, Metrics
from model.serve.engine import Engine
from pipeline.errors import InputRejected, UsageError
from pipeline.settings import Settings
from pipeline.verdict import Finding, ModelRef

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Evaluation:
    """Hold N labelled images and one network's answer about each."""

    samples: list[Sample]
    findings: list[Finding | None]  # None where the image was refused
    origins: list[Origin]
    model: ModelRef

    def metrics(self) -> Metrics:
        """Return the metrics; raise UsageError when too few images were judged."""
        return measure(self.samples, self.findings, self.origins, self.model)


def evaluate_folder(data: Path, settings: Settings, everything: bool = False) -> Metrics:
    """Judge the labelled images under `data` and return the metrics; see `judge_folder`."""
    return judge_folder(data, settings, everything).metrics()


def judge_folder(data: Path, settings: Settings, everything: bool = False) -> Evaluation:
    """Judge the labelled images under `data`, with a progress bar on stderr if it is a terminal.

    When a manifest names a fixed fold, only its patients count unless `everything` is set, because the
    network was trained on the rest. Raises UsageError when a class has no image.
    """
    samples = [sample for sample in load_samples(data) if everything or sample.fold == "report"]
    counts = Counter(sample.label for sample in samples)
    lacking = [name for name, label in CLASSES.items() if not counts[label]]
    if lacking:
        raise UsageError(
            f"too few patients: the `report` fold, kept from training, has no {' and no '.join(lacking)}; "
            "measure all images with --all"
        )
    engine = Engine.of(settings)
    findings = side_by_side(lambda sample: _finding(engine, sample), samples, settings.threads)
    return Evaluation(samples, findings, load_origins(data, samples), engine.model)


def side_by_side(
    judge: Callable[[_Item], _Result], items: Sequence[_Item], threads: int, title: str = "judging"
) -> list[_Result]:
    """Return `judge` of each item, computed in threads, with a progress bar on stderr if it is a terminal."""
    console = Console(stderr=True)
    with ThreadPoolExecutor(threads) as pool:
        answers = pool.map(judge, items)
        quiet = not console.is_terminal
        return list(track(answers, title, len(items), console=console, transient=True, disable=quiet))


def _finding(engine: Engine, sample: Sample) -> Finding | None:
    try:
        return engine.examine(sample.path.read_bytes()).finding
    except InputRejected:
        return None


def metrics_table(metrics: Metrics) -> str:
    """Format the metrics as a table for people."""
    return "\n".join(
        [*_head(metrics), *_thresholds(metrics), *_predictive_values(metrics), *_groups(metrics)]
    )


def _head(metrics: Metrics) -> list[str]:
    rows = {
        "AUC": metrics.auc,
        "average precision": metrics.average_precision,
        "Brier score": metrics.brier,
        "calibration error": metrics.ece,
        "called uncertain": metrics.uncertain,
        "right when certain": metrics.right_when_certain,
        "refused": metrics.refused,
    }
    return [
        f"{metrics.images} images of {metrics.patients} patients, {metrics.pneumonia} with pneumonia; 95 % "
        f"intervals {METHOD}",
        "Refused images count in the last line only; all other figures are about judged images.",
        *(_row(name, figure) for name, figure in rows.items() if figure),
    ]


def _thresholds(metrics: Metrics) -> list[str]:
    places = (("at the decision", metrics.at_decision), ("at one half", metrics.at_half))
    low, high = metrics.not_called_normal, metrics.not_called_pneumonia
    return [
        *(line for name, place in places for line in _place(name, place)),
        "at the label thresholds",
        _row(f"sensitivity, P under {low.threshold:.3f} is normal", low.sensitivity, 45),
        _row(f"specificity, P over {high.threshold:.3f} is pneumonia", high.specificity, 45),
    ]


def _place(name: str, place: AtThreshold) -> list[str]:
    figures = (place.accuracy, place.sensitivity, place.specificity)
    names = ("accuracy", "sensitivity", "specificity")
    return [
        f"{name}, P over {place.threshold:.3f}",
        *(_row(word, figure) for word, figure in zip(names, figures, strict=True)),
    ]


def _predictive_values(metrics: Metrics) -> list[str]:
    lines = ["confident labels, by pneumonia prevalence among the X-rays"]
    for row in metrics.predictive_values:
        lines.append(_row(f"{row.prevalence:.0%}: right when `pneumonia`", row.ppv, 30))
        lines.append(_row(f"{row.prevalence:.0%}: right when `normal`", row.npv, 30))
    return lines


def _groups(metrics: Metrics) -> list[str]:
    lines = ["groups, accuracy at the decision"] if metrics.groups else []
    return lines + [_row(f"{group.name} ({group.images})", group.right, 40) for group in metrics.groups]


def _row(name: str, figure: Metric | None, width: int = 22) -> str:
    return f"  {name:{width}} {figure if figure else 'unknown'}"
