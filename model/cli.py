"""`cxr explore`, `train`, `export`, `evaluate`. What is heavy is imported when a command runs."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError
from pipeline.settings import load_settings

Weights = Annotated[
    Path | None, typer.Option(help="An ONNX file that `cxr export` wrote, instead of the shipped one.")
]


def explore(
    data: Annotated[Path, typer.Argument(help="A folder with NORMAL/ and PNEUMONIA/, at any depth.")],
    out: Annotated[Path, typer.Option(help="The folder for the figures; they show patients' images.")],
) -> None:
    """Count the data by class, fold and patient, and draw classes, samples and sizes."""
    _check_folder(data)
    from rich.console import Console

    from model.explore import explore as draw
    from model.report import PRIVATE

    draw(data, out, Console())
    typer.echo(f"written: {out}. {PRIVATE}", err=True)


def train(
    data: Annotated[Path, typer.Argument(help="A folder with NORMAL/ and PNEUMONIA/, at any depth.")],
    out: Annotated[Path, typer.Option(help="The run's folder; named again, the run goes on.")] = Path(
        "runs/cxr"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Fewer for a trial.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Train, calibrate and export a network. Ctrl-C saves; the same command goes on from there."""
    _check_folder(data)
    from model.recipe import run

    run(data, out, epochs=epochs, seed=seed)


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished training run.")],
    data: Annotated[
        Path, typer.Argument(help="The data it was trained on: calibration needs its validation fold.")
    ],
) -> None:
    """Calibrate a trained network and write it as ONNX."""
    _check_folder(run)
    _check_folder(data)
    from model.recipe import calibrate_and_export

    typer.echo(f"written: {calibrate_and_export(run, data)}")


def evaluate(
    data: Annotated[Path, typer.Argument(help="A folder with NORMAL/ and PNEUMONIA/, at any depth.")],
    weights: Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the patients that it may have learned from.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A folder for figures and tables; some show patients' images.")
    ] = None,
) -> None:
    """Measure a network on labelled images, with 95 % confidence intervals.

    Images that it refuses count in `refused` alone: the other figures are of those that it judged.
    """
    _check_folder(data)
    from rich.console import Console

    from model.evaluate import judge_folder, table

    settings = load_settings(weights=weights)
    if out:
        from model.figures import folder

        folder(out)
    evaluation = judge_folder(data, settings, everything)
    metrics = evaluation.metrics()
    typer.echo(metrics.model_dump_json(indent=1) if as_json else table(metrics))
    if out:
        from model.report import write_report

        write_report(evaluation, metrics, settings.weights, out, Console(stderr=True))


def _check_folder(path: Path) -> None:
    """Raise UsageError where there is no such folder, before anything is made for it."""
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name another folder") from error
