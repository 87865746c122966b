"""The command line: the one place that puts the parts together.

Each command imports what it needs, when it needs it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ec2_runner import cli as aws
from handlers import cli as keep
from handlers.backfill import backfill
from handlers.cli import Root
from model import cli as learn
from model.cli import Weights
from pipeline.errors import CxrError, UsageError
from pipeline.names import INBOX
from pipeline.settings import Settings, load_settings

if TYPE_CHECKING:
    from flask import Flask
    from waitress.server import BaseWSGIServer

    from pipeline.ports import Store

app = typer.Typer(
    help="Drop a chest X-ray into an inbox; read a pneumonia verdict. Research, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
index_app = typer.Typer(help="The worklist.", no_args_is_help=True)
app.add_typer(index_app, name="index")

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
    bucket: Annotated[
        str | None,
        typer.Option(help="Serve the page of a bucket; its stack judges, not this machine."),
    ] = None,
    stack: keep.Stack = None,
) -> None:
    """Watch the inbox, judge what lands there, and serve the page. Ctrl-C ends it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if bucket:
        return _serve_bucket(keep.settings_of(root, bucket, stack), port)
    settings = load_settings(root=root)
    if settings.store != "folder":
        raise UsageError("`cxr up` watches a folder: unset CXR_STORE, or name the bucket with --bucket")
    return _serve_folder(settings, port, poll)


def _serve_folder(settings: Settings, port: int, poll: bool) -> None:
    from handlers import local, wiring
    from pipeline.sqlite import SqliteIndex
    from pipeline.watch import InboxWatcher
    from web.app import create_app

    ports = wiring.make_ports(settings)
    worklist = ports.index
    assert isinstance(worklist, SqliteIndex)  # that of a folder
    server = _server(create_app(ports.store, worklist, settings.max_bytes, _card(settings)), port)
    queue = local.LocalQueue(ports)
    wiring.provide(replace(ports, queue=queue))
    watcher = InboxWatcher(settings.root.resolve(), queue.hint, poll)
    try:
        watcher.start(known=worklist.present())
        _run(server, f"Drop chest X-rays into {settings.root / INBOX}")
    finally:
        watcher.stop()
        queue.stop()
        worklist.close()


def _serve_bucket(settings: Settings, port: int) -> None:
    from handlers import wiring
    from pipeline.folder import PRIVATE
    from pipeline.mirror import Mirror
    from pipeline.sqlite import SqliteIndex
    from web.app import create_app

    store, stop = wiring.make_store(settings), threading.Event()
    next(store.list(INBOX), None)  # says at once that there is no such bucket: the stack's table would not
    with closing(SqliteIndex(settings.root / PRIVATE / f"{settings.bucket}.sqlite")) as worklist:
        mirror = Mirror(wiring.make_dynamo_index(settings), worklist)
        mirror.step()  # and what is wrong with the bucket's stack
        server = _server(create_app(store, worklist, settings.max_bytes, _card(settings)), port)
        thread = threading.Thread(target=mirror.run, args=[stop], name="cxr-mirror", daemon=True)
        thread.start()
        try:
            _run(server, f"Drop chest X-rays into s3://{settings.bucket}/{INBOX}")
        finally:
            stop.set()
            thread.join(10)


def _run(server: BaseWSGIServer, where: str) -> None:
    """Serve until Ctrl-C."""
    typer.echo(where)
    typer.echo(f"and see them at http://127.0.0.1:{server.effective_port}  (Ctrl-C ends it)")
    try:
        server.run()
    finally:
        server.close()


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
    names: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Files, folders, s3://bucket/folder/, - for standard input."),
    ],
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
    show = Heatmaps(heatmaps, map(Path, names)).write if heatmaps else None
    rejected = False
    limits = settings.max_bytes, settings.threads
    for verdict in verdicts(names, engine, Release(), *limits, show, _bucket):
        rejected |= verdict.status != "classified"
        typer.echo(verdict.to_json_line() if as_json else line(verdict))
    raise typer.Exit(1 if rejected else 0)


@app.command()
def worker(
    check: Annotated[
        bool, typer.Option("--check", help="Only judge an image drawn for it: exit code 0 when all is well.")
    ] = False,
) -> None:
    """Judge what comes over SSH, on this machine's loopback: the inference host's process."""
    from datetime import timedelta

    from ec2_runner import agent
    from ec2_runner import worker as warm
    from ec2_runner.service import Service
    from handlers import wiring
    from pipeline.verdict import Release

    settings = _settings()
    if check:
        warm.check(settings)
        return
    store, release = wiring.make_store(settings), Release()
    host = warm.make_worker(store, settings, release)
    service = Service(host, host.model, release)
    if settings.host_id is None:
        agent.serve(service, settings.worker_port)
    else:
        publisher, idle = agent.Publisher(store, settings.host_id), timedelta(minutes=settings.idle_minutes)
        key = settings.host_key_file
        agent.serve(service, settings.worker_port, publisher, idle, agent.power_off, key)


_COMMANDS: list[Callable[..., None]] = [
    *(learn.explore, learn.train, learn.evaluate, learn.export),
    *(backfill, keep.forget, keep.reconcile, aws.deploy, aws.status, aws.destroy),
]
for command in _COMMANDS:
    app.command()(command)
index_app.command()(keep.rebuild)


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


def _bucket(name: str) -> Store:
    from handlers import wiring

    return wiring.open_bucket(name)


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
