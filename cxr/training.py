"""`cxr explore`, `train`, `export`, `evaluate`, `calibrate`: what is heavy is imported when one runs."""

from pathlib import Path
from typing import Annotated

import typer

from cxr.options import begin
from pipeline.errors import UsageError

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

    from model.evaluate.pictures.explore import explore_folder
    from model.evaluate.pictures.report import PRIVACY_NOTICE

    explore_folder(data, out, Console())
    typer.echo(f"written: {out}. {PRIVACY_NOTICE}", err=True)


def train(
    data: Annotated[Path, typer.Argument(help="A folder with NORMAL/ and PNEUMONIA/, at any depth.")],
    out: Annotated[Path, typer.Option(help="The run's folder; named again, the run goes on.")] = Path(
        "runs/cxr"
    ),
    epochs: Annotated[float | None, typer.Option(min=0.1, help="Fewer for a trial.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    outside: Annotated[
        Path | None,
        typer.Option(help="A folder of folders with images of other populations, to be told from these."),
    ] = None,
) -> None:
    """Train, calibrate and export a network. Ctrl-C saves; the same command goes on from there."""
    _check_folder(data)
    from model.train.recipe import run

    run(data, out, epochs=epochs, seed=seed, outside=outside)


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished training run.")],
    data: Annotated[
        Path, typer.Argument(help="The data it was trained on: calibration needs its validation fold.")
    ],
) -> None:
    """Calibrate a trained network and write it as ONNX."""
    _check_folder(run)
    _check_folder(data)
    from model.train.recipe import calibrate_and_export

    typer.echo(f"written: {calibrate_and_export(run, data)}")


def evaluate(
    data: Annotated[
        Path | None, typer.Argument(help="A folder with NORMAL/ and PNEUMONIA/, at any depth.")
    ] = None,
    weights: Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the patients that it may have learned from.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="A folder for figures and tables; some show patients' images.")
    ] = None,
    populations: Annotated[
        Path | None,
        typer.Option(help="Instead: a folder of folders, each of images of one population, without labels."),
    ] = None,
) -> None:
    """Measure a network on labelled images, with 95 % confidence intervals.

    Images that it refuses count in `refused` alone: the other figures are of those that it judged.
    """
    settings = begin(weights=weights)
    if (data is None) == (populations is None):
        raise UsageError("name a folder of labelled images, or --populations and a folder")
    if populations:
        if out or everything:
            raise UsageError("--out and --all are for labelled images, not for --populations")
        _check_folder(populations)
        from model.evaluate.populations import judge_populations, populations_table

        seen = judge_populations(populations, settings)
        typer.echo(seen.model_dump_json(indent=1) if as_json else populations_table(seen))
        return
    assert data
    _check_folder(data)
    from rich.console import Console

    from model.evaluate.folder import judge_folder, metrics_table

    if out:
        from model.evaluate.pictures.figures import folder

        folder(out)
    evaluation = judge_folder(data, settings, everything)
    metrics = evaluation.metrics()
    typer.echo(metrics.model_dump_json(indent=1) if as_json else metrics_table(metrics))
    if out:
        from model.evaluate.pictures.report import write_report

        write_report(evaluation, metrics, settings.weights, out, Console(stderr=True))


def calibrate(
    data: Annotated[
        Path, typer.Argument(help="A folder with NORMAL/ and PNEUMONIA/: some hundred X-rays of your own.")
    ],
    out: Annotated[Path, typer.Option(help="The ONNX file to write; its card is written beside it.")],
    weights: Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="The card as JSON.")] = False,
) -> None:
    """Fit the network's probability, thresholds and typicality to your own X-rays; it learns nothing else.

    Serve the result with CXR_WEIGHTS. Nothing is written when your X-rays do not show that it is better.
    """
    _check_folder(data)
    from model.site import calibrate_site, table

    if out.suffix != ".onnx" or not out.parent.is_dir():
        raise UsageError(
            f"{out} is no place for a network: name a file that ends in .onnx, in a folder that is there"
        )
    card = calibrate_site(data, out, begin(weights=weights))
    typer.echo(card.model_dump_json(indent=1) if as_json else table(card))
    typer.echo(f"written: {out}; serve it with CXR_WEIGHTS={out}", err=True)


def _check_folder(path: Path) -> None:
    """Raise UsageError where there is no such folder, before anything is made for it."""
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name another folder") from error
