"""Run `cxr explore`, `train`, `evaluate`, `export` and `calibrate`; heavy libraries are imported on use."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr.options import begin
from pipeline.errors import UsageError
from pipeline.names import OUTBOX

if TYPE_CHECKING:
    from pipeline.ports import FullStore

WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="ONNX file written by `cxr train`, `export` or `calibrate` (default: the shipped network)."
    ),
]


def explore_command(
    data: Annotated[Path, typer.Argument(help="Folder with NORMAL/ and PNEUMONIA/ at any depth.")],
    out: Annotated[Path, typer.Option(help="Folder for the figures. They show patients' images.")],
) -> None:
    """Count the data by class, fold and patient; draw class balance, samples and image sizes."""
    begin()
    _check_folder(data)
    from rich.console import Console

    from model.evaluate.pictures.explore import explore_folder
    from model.evaluate.pictures.report import PRIVACY_NOTICE

    explore_folder(data, out, Console())
    typer.echo(f"written: {out}. {PRIVACY_NOTICE}", err=True)


def train_command(
    data: Annotated[Path, typer.Argument(help="Folder with NORMAL/ and PNEUMONIA/ at any depth.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the training run; name it again to continue a run.")
    ] = Path("runs/cxr"),
    epochs: Annotated[
        float | None, typer.Option(min=0.1, help="Number of epochs (default: 8); use few for a trial run.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the random numbers; the same seed repeats a training.")
    ] = None,
    outside: Annotated[
        Path | None,
        typer.Option(
            help="Folder with one folder per other population; the network learns to tell their images apart."
        ),
    ] = None,
) -> None:
    """Train, calibrate and export a network. Ctrl-C saves; run the same command again to continue."""
    begin()
    _check_folder(data)
    from model.train.recipe import run_recipe

    run_recipe(data, out, epochs=epochs, seed=seed, outside=outside)


def export_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.")],
    data: Annotated[
        Path, typer.Argument(help="The data the run was trained on; calibration needs its validation fold.")
    ],
) -> None:
    """Calibrate a trained network again and write it as ONNX."""
    begin()
    _check_folder(run)
    _check_folder(data)
    from model.train.recipe import calibrate_and_export, told

    typer.echo(told(calibrate_and_export(run, data), data))


def evaluate_command(
    data: Annotated[
        Path | None, typer.Argument(help="Folder with NORMAL/ and PNEUMONIA/ at any depth.")
    ] = None,
    weights: WeightsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, for programs.")] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Include patients that the network may have been trained on; with --reviews, verdicts that "
            "were replaced since.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures and tables. Some show patients' images.")
    ] = None,
    populations: Annotated[
        Path | None,
        typer.Option(help="Folder with one folder per population, to measure instead of labelled images."),
    ] = None,
    reviews: Annotated[
        str | None,
        typer.Option(
            metavar="OUTBOX",
            help="Folder with outbox/, or s3://BUCKET, to compare its verdicts with what readers said about "
            "them, instead of measuring labelled images.",
        ),
    ] = None,
) -> None:
    """Measure a network on labelled images or against readers, with 95 % confidence intervals.

    Refused images count only under `refused`; all other figures are for the images that were judged.
    """
    settings = begin(weights=weights)
    if sum(one is not None for one in (data, populations, reviews)) != 1:
        raise UsageError("name a folder of labelled images, or --populations FOLDER, or --reviews OUTBOX")
    if reviews is not None:
        if out or weights:
            raise UsageError("--out and --weights cannot be combined with --reviews")
        from model.evaluate.readers import evaluate_reviews, readers_table

        figures = evaluate_reviews(_outbox(reviews), everything)
        typer.echo(figures.model_dump_json(indent=1) if as_json else readers_table(figures))
        return
    if populations:
        if out or everything:
            raise UsageError("--out and --all cannot be combined with --populations")
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


def calibrate_command(
    data: Annotated[
        Path, typer.Argument(help="Folder with NORMAL/ and PNEUMONIA/: a few hundred X-rays of your own.")
    ],
    out: Annotated[Path, typer.Option(help="ONNX file to write; its card is written beside it.")],
    weights: WeightsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON, for programs.")] = False,
) -> None:
    """Fit probability, thresholds and typicality to your own X-rays; the network itself is not retrained.

    Serve the result with CXR_WEIGHTS. Nothing is written unless your X-rays show that it is better.
    """
    _check_folder(data)
    from model.site import calibrate_site, table

    if out.suffix != ".onnx" or not out.parent.is_dir():
        raise UsageError(f"{out} cannot be used: name a file that ends in .onnx, in an existing folder")
    card = calibrate_site(data, out, begin(weights=weights))
    typer.echo(card.model_dump_json(indent=1) if as_json else table(card))
    typer.echo(f"written: {out}\n\nServe it:\n  CXR_WEIGHTS={shlex.quote(str(out))} cxr up", err=True)


def _outbox(name: str) -> FullStore:
    """Return the store whose outbox is named: a bucket, a folder with outbox/, or that folder itself."""
    from handlers import wiring
    from pipeline.store.folder import FolderStore

    bucket, folder = name.removeprefix("s3://").rstrip("/"), OUTBOX.rstrip("/")
    if name.startswith("s3://"):
        if bucket.removesuffix(f"/{folder}").count("/"):
            raise UsageError(f"{name}: name the whole bucket, as in s3://BUCKET")
        return wiring.open_bucket(bucket.removesuffix(f"/{folder}"))
    path = Path(name)
    root = path if (path / folder).is_dir() else path.resolve().parent
    if root != path and path.resolve().name != folder:
        raise UsageError(f"{name} has no outbox/; name the folder that has it, or s3://BUCKET")
    _check_folder(root / folder)
    return FolderStore(root, (OUTBOX,), writable=False)


def _check_folder(path: Path) -> None:
    """Raise UsageError if the folder cannot be read, before anything is created."""
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name another folder") from error
