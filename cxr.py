"""The command line: the one place that puts the parts together.

Each command imports what it needs, when it needs it.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ec2_runner import cli as aws
from pipeline.errors import CxrError, UsageError
from pipeline.names import INBOX
from pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from flask import Flask
    from waitress.server import BaseWSGIServer

app = typer.Typer(
    help="Drop a chest X-ray into an inbox; read a pneumonia verdict. Research, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
index_app = typer.Typer(help="The worklist.", no_args_is_help=True)
app.add_typer(index_app, name="index")

Root = Annotated[
    Path | None, typer.Option(help="The folder with inbox/ and outbox/.  [default: ./data, or CXR_ROOT]")
]
Weights = Annotated[
    Path | None, typer.Option(help="An ONNX file that `cxr export` wrote, instead of the shipped one.")
]
_verbose = False


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the trace of an error.")] = False,
) -> None:
    global _verbose
    _verbose = verbose


@app.command()
def up(
    root: Root = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the page, on this machine alone; 0 takes a free one.")
    ] = 8000,
    poll: Annotated[
        bool, typer.Option("--poll", help="Scan instead of watching: for network shares.")
    ] = False,
) -> None:
    """Watch the inbox, judge what lands there, and serve the page. Ctrl-C ends it."""
    from handlers import local, wiring
    from pipeline.sqlite import SqliteIndex
    from pipeline.watch import InboxWatcher
    from web.app import create_app

    settings = _settings(root)
    if settings.store != "folder":
        raise UsageError("`cxr up` watches a folder; unset CXR_STORE")
    ports = wiring.make_ports(settings)
    worklist = ports.index
    assert isinstance(worklist, SqliteIndex)  # that of a folder
    server = _server(create_app(ports.store, worklist, settings.max_bytes, _card(settings)), port)
    queue = local.LocalQueue(ports)
    wiring.provide(replace(ports, queue=queue))
    watcher = InboxWatcher(settings.root.resolve(), queue.hint, poll)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        watcher.start(known=worklist.present())
        typer.echo(f"Drop chest X-rays into {settings.root / INBOX}")
        typer.echo(f"and see them at http://127.0.0.1:{server.effective_port}  (Ctrl-C ends it)")
        server.run()
    finally:
        server.close()
        watcher.stop()
        queue.stop()
        worklist.close()


@app.command()
def replay(
    events: Annotated[list[Path], typer.Argument(help="Saved events: S3, SQS or EventBridge JSON.")],
    root: Root = None,
) -> None:
    """Feed saved events through the handlers over the folder: a line for each record."""
    from handlers import local, wiring

    wiring.provide(wiring.make_ports(_settings(root)))
    failed = False
    for path in events:
        answer = local.deliver(_load_event(path))
        for outcome in answer.outcomes:
            typer.echo(f"{path.name}: {outcome['key']}: {outcome['result']}")
            failed |= outcome["result"] in ("failed", "given_up")
        for reason in answer.ignored:
            typer.echo(f"{path.name}: ignored: {reason}")
    raise typer.Exit(1 if failed else 0)


@app.command()
def classify(
    paths: Annotated[list[Path], typer.Argument(help="Files, whole folders, or - for standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="One verdict a line, and nothing else.")] = False,
    heatmaps: Annotated[
        Path | None, typer.Option(help="A folder for pictures of what moved each answer: no localisation.")
    ] = None,
    weights: Weights = None,
) -> None:
    """Classify files. Exit code 1 when one of them could not be judged."""
    from model.engine import Engine
    from model.overlay import Heatmaps
    from pipeline.classify import line, verdicts
    from pipeline.verdict import Release

    settings = _settings(weights=weights)
    engine = Engine.of(settings)
    show = Heatmaps(heatmaps, paths).write if heatmaps else None
    rejected = False
    for verdict in verdicts(paths, engine, Release(), settings.max_bytes, settings.threads, show):
        rejected |= verdict.status != "classified"
        typer.echo(verdict.to_json_line() if as_json else line(verdict))
    raise typer.Exit(1 if rejected else 0)


@app.command()
def explore(
    data: Annotated[Path, typer.Argument(help="A folder with NORMAL/ and PNEUMONIA/, at any depth.")],
    out: Annotated[Path, typer.Option(help="The folder for the figures; they show patients' images.")],
) -> None:
    """Count the data by class, fold and patient, and draw classes, samples and sizes."""
    from rich.console import Console

    from model.explore import explore as draw
    from model.report import PRIVATE

    draw(data, out, Console())
    typer.echo(f"written: {out}. {PRIVATE}", err=True)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A folder with NORMAL/ and PNEUMONIA/, at any depth.")],
    out: Annotated[Path, typer.Option(help="The run's folder; named again, the run goes on.")] = Path(
        "runs/cxr"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Fewer for a trial.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Train, calibrate and export a network. Ctrl-C saves; the same command goes on from there."""
    from model.recipe import run

    run(data, out, epochs=epochs, seed=seed)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished training run.")],
    data: Annotated[
        Path, typer.Argument(help="The data it was trained on: calibration needs its validation fold.")
    ],
) -> None:
    """Calibrate a trained network and write it as ONNX."""
    from model.recipe import calibrate_and_export

    typer.echo(f"written: {calibrate_and_export(run, data)}")


@app.command()
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
    from rich.console import Console

    from model.evaluate import judge_folder, table

    settings = _settings(weights=weights)
    if out:
        from model.figures import folder

        folder(out)
    evaluation = judge_folder(data, settings, everything)
    metrics = evaluation.metrics()
    typer.echo(metrics.model_dump_json(indent=1) if as_json else table(metrics))
    if out:
        from model.report import write_report

        write_report(evaluation, metrics, settings.weights, out, Console(stderr=True))


@index_app.command()
def rebuild(root: Root = None) -> None:
    """Make the worklist again from the outbox."""
    from handlers import wiring
    from pipeline.intake import rebuild_index

    settings = _settings(root)
    count = rebuild_index(wiring.make_store(settings), wiring.make_index(settings))
    typer.echo(f"{count} verdicts in the worklist")


for command in (aws.deploy, aws.status, aws.destroy):
    app.command()(command)


def main() -> None:
    """Run the command line; an error is one line."""
    try:
        app()
    except CxrError as error:
        if _verbose:
            raise
        typer.echo(f"cxr: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _settings(root: Path | None = None, weights: Path | None = None) -> Settings:
    return load_settings(root=root, weights=weights)


def _card(settings: Settings) -> dict[str, Any] | None:
    """The card of the shipped network, for the page; other weights have none."""
    if settings.weights:
        return None
    from model.card import CARD

    found: dict[str, Any] = json.loads(CARD.read_bytes())
    return found


def _load_event(path: Path) -> dict[str, Any]:
    try:
        event = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} holds no JSON event: {error}") from error
    if not isinstance(event, dict):
        raise UsageError(f"{path} holds no event: an event is a JSON object")
    return event


def _server(page: Flask, port: int) -> BaseWSGIServer:
    from waitress import create_server

    try:
        limit = page.config["MAX_CONTENT_LENGTH"]
        return create_server(
            page, host="127.0.0.1", port=port, threads=8, ident=None, max_request_body_size=limit
        )
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used ({error.strerror}); name another with --port"
        ) from error


if __name__ == "__main__":
    main()
