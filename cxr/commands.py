"""Define the command line: `up`, `classify` and `worker` here; other modules of this folder hold the rest.

Each command imports the parts it needs when it runs, so that `cxr --help` starts quickly.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr import deployment, training, upkeep, users
from cxr.backfill import backfill_command
from cxr.options import RootOption, StackOption, begin, begin_with_store, check_root
from cxr.training import WeightsOption
from pipeline.errors import UsageError, explained
from pipeline.names import INBOX, for_terminal

if TYPE_CHECKING:
    from flask import Flask
    from waitress.server import BaseWSGIServer

    from pipeline.dicom.arrivals import Arrivals
    from pipeline.outgoing.lane import Outgoing
    from pipeline.ports import FullStore, Index, Store
    from pipeline.running.alone import Tell
    from pipeline.running.background import Background
    from pipeline.settings import Settings
    from pipeline.store.ledger import Ledger
    from pipeline.worklist.sqlite import SqliteIndex
    from web.access import Access
    from web.acting.routes import Eraser

app = typer.Typer(
    help="Drop a chest X-ray into an inbox; read a pneumonia verdict. Research, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
index_app = typer.Typer(help="Maintain the worklist.", no_args_is_help=True)
app.add_typer(index_app, name="index")

_verbose = False
_ERASING_SECONDS = 20.0  # for one request of the page; then its remaining X-rays are left


def _tell_version(asked: bool) -> None:
    if asked:
        from pipeline.verdict import RELEASE, VERSION

        typer.echo(f"cxr {VERSION}, release {RELEASE}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the full traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    global _verbose
    _verbose = verbose


@app.command("up")
def up_command(
    root: RootOption = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the page; 0 picks a free one (default: 8000)."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on; for a network, set CXR_USERS first (default: 127.0.0.1).",
        ),
    ] = None,
    poll: Annotated[
        bool, typer.Option("--poll", help="Scan the inbox instead of watching it; for network shares.")
    ] = False,
    bucket: Annotated[
        str | None,
        typer.Option(help="Serve the page of a bucket; its AWS stack judges (default: CXR_BUCKET, if set)."),
    ] = None,
    stack: StackOption = None,
    dicom_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of a DICOM node that receives X-rays, such as 11112; 0 picks a free one "
            "(default: no node).",
        ),
    ] = None,
) -> None:
    """Watch the inbox, judge new X-rays and serve the page. Stop it with Ctrl-C."""
    from pipeline.running.alone import alone
    from pipeline.store.folder import PRIVATE_FOLDER
    from web.access import access_of

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    given: dict[str, object] = {"address": host, "port": port, "poll": poll or None, "dicom_port": dicom_port}
    settings = begin_with_store(root, bucket, stack, **given)
    access = access_of(settings, settings.address)
    if bucket := settings.bucket:
        from handlers import wiring
        from model.serve import process

        if settings.page_forget:
            raise UsageError(
                "page_forget is for a folder: the page of a bucket has no permission to erase; "
                "set it to false, and use `cxr forget NAME --bucket BUCKET`"
            )

        process.discard()  # its stack judges; the network that was loaded ahead is not needed

        # Report a missing bucket now: the stack's table would not, and the lock file would be created first.
        next(wiring.open_bucket(bucket).list(INBOX), None)
    with alone(settings.root / PRIVATE_FOLDER / f"{bucket or 'up'}.lock", "`cxr up`") as tell:
        if bucket:
            return _serve_bucket(settings, access, tell)
        return _serve_folder(settings, access, tell)


def _serve_folder(settings: Settings, access: Access, tell: Tell) -> None:
    from cxr import local
    from handlers import wiring
    from pipeline.running.background import Background
    from pipeline.running.service import Service
    from pipeline.store.ledger import Ledger
    from pipeline.store.watch import InboxWatcher
    from pipeline.worklist.rebuild import keep_whole
    from pipeline.worklist.sqlite import SqliteIndex

    ports, monitor = wiring.make_ports(settings), None
    worklist = ports.index
    assert isinstance(worklist, SqliteIndex)  # a folder always has this one
    background, folder = Background(), settings.root.resolve()
    ledger = Ledger(folder)
    queue = local.LocalQueue(ports, background, ledger.end)
    if isinstance(ports.host, Service):
        monitor = local.LocalMonitor(ports.host, queue)
    watcher = InboxWatcher(
        folder, queue.hint, settings.poll, background=background, ledger=ledger, offer=queue.offer
    )
    outgoing = wiring.make_outgoing(settings, ports.store, worklist)

    def problems() -> list[str]:
        return [*background.problems(), *watcher.problems(), *(outgoing.problems() if outgoing else ())]

    arrivals = wiring.make_arrivals(settings, ports.store)
    parts: dict[str, Any] = {"operations": monitor, "problems": problems, "arrivals": arrivals}
    parts["outgoing"] = outgoing
    parts["eraser"] = _eraser(settings, ports.store, worklist, outgoing, ledger)
    page = _page(settings, access, ports.store, worklist, **parts)
    server = _server(page, access.address, settings)
    node = _start_node(settings, arrivals, background, outgoing)
    wiring.provide(replace(ports, queue=queue))
    if outgoing:
        outgoing.start(background)
    background.start("worklist", lambda: keep_whole(ports.store, worklist, background.stopping))
    try:
        watcher.start(worklist.present, worklist.unsettled)
        _run(server, tell, f"Drop chest X-rays into {settings.root / INBOX}", node)
    finally:
        queue.stop()  # this also stops the background threads
        watcher.stop()
        if outgoing:
            outgoing.close()
        worklist.close()


def _eraser(
    settings: Settings, store: FullStore, index: Index, outgoing: Outgoing | None, ledger: Ledger
) -> Eraser | None:
    """Return what erases X-rays of the folder for the page; None unless the settings allow it."""
    if not settings.page_forget:
        return None
    from handlers import wiring
    from pipeline.forget import erase_xrays
    from pipeline.outgoing.queue import OutgoingQueue

    path = wiring.outgoing_path(settings)
    queue = outgoing.queue if outgoing else OutgoingQueue(path) if path.exists() else None
    erase = partial(erase_xrays, store=store, index=index, outgoing=queue, ledger=ledger)
    return partial(erase, seconds=_ERASING_SECONDS)


def _serve_bucket(settings: Settings, access: Access, tell: Tell) -> None:
    from handlers import wiring
    from pipeline.running.background import Background
    from pipeline.running.others import Others

    assert settings.bucket is not None  # `up_command` checked it
    store, background = wiring.open_bucket(settings.bucket), Background()
    others = Others(store)
    mirror, worklist = wiring.make_mirror(settings)
    with closing(worklist):
        mirror.step()  # raises if something is wrong with the bucket's stack
        monitor = wiring.make_monitor(settings, store)
        arrivals = wiring.make_arrivals(settings, store)
        outgoing = wiring.make_outgoing(settings, store, worklist)

        def problems() -> list[str]:
            return [*background.problems(), *(outgoing.problems() if outgoing else ())]

        parts = {"tickets": store, "operations": monitor, "problems": problems, "outgoing": outgoing}
        parts |= {"arrivals": arrivals, "others": others.count}
        page = _page(settings, access, store, worklist, **parts)
        server = _server(page, access.address, settings)
        node = _start_node(settings, arrivals, background, outgoing)
        if outgoing:
            outgoing.start(background)
        background.start("mirror of the worklist", lambda: mirror.run(background.stopping))
        background.start("watch over the stack", lambda: monitor.run(background.stopping))
        background.start("look at other pages", lambda: others.run(background.stopping))
        try:
            _run(server, tell, f"Drop chest X-rays into s3://{settings.bucket}/{INBOX}", node)
        finally:
            background.stop()
            if outgoing:
                outgoing.close()


def _page(settings: Settings, access: Access, store: Store, worklist: SqliteIndex, **parts: Any) -> Flask:
    from handlers import wiring
    from model import CARD
    from model.serve.guarded import picture_maker
    from pipeline.store.folder import PRIVATE_FOLDER
    from web.app import create_page
    from web.audit import Audit

    audit = Audit(settings.root / PRIVATE_FOLDER / "audit.jsonl", settings.log_key)
    card = json.loads(CARD.read_bytes()) if settings.weights is None else None  # other weights have no card
    parts["full_picture"] = picture_maker(settings, full=True)
    if find_spec("highdicom"):  # an optional extra
        parts["results"] = wiring.make_results(store, settings)
    return create_page(store, worklist, settings.max_bytes, card, access=access, audit=audit, **parts)


def _start_node(
    settings: Settings, arrivals: Arrivals, background: Background, outgoing: Outgoing | None
) -> str | None:
    """Start the DICOM node, if the settings ask for one; return where it is."""
    if settings.dicom_port is None:
        return None
    from handlers import wiring

    node = wiring.make_node(settings, arrivals, outgoing.queue.confirm if outgoing else None)
    background.start("DICOM node", lambda: node.run(background.stopping))
    return f"{settings.ae_title} at {settings.dicom_address}, port {node.port}"


def _run(server: BaseWSGIServer, tell: Tell, where: str, node: str | None) -> None:
    """Serve until Ctrl-C; `tell` tells the address to anyone who starts a second `cxr up`."""
    from web.access import url_of

    address = url_of(server.effective_host, server.effective_port)
    tell(f"at {address}")
    typer.echo(where)
    typer.echo(f"and see them at {address}  (stop with Ctrl-C)")
    if node:
        typer.echo(f"or send them by DICOM to {node}")
    try:
        server.run()
    finally:
        server.close()


@app.command("classify")
def classify_command(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Files, folders, s3://bucket/folder/, or - for standard input."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one verdict as JSON per line, and nothing else.")
    ] = False,
    heatmaps: Annotated[
        Path | None,
        typer.Option(
            help="Also draw, into this folder, what moved each answer; this does not locate disease. "
            "It takes two to three times as long."
        ),
    ] = None,
    weights: WeightsOption = None,
) -> None:
    """Judge files without an inbox. The exit code is 1 if a file could not be judged.

    On a terminal, the verdicts are a table; elsewhere, each is one line.
    """
    from model.serve.guarded import GuardedEngine

    settings, show = begin(weights=weights), None
    with GuardedEngine.of(settings) as engine:  # loads the network while this process imports the rest
        from pipeline.classify import count_inputs, line, verdicts
        from pipeline.verdict import Release

        if heatmaps:
            from model.serve.overlay import Heatmaps

            show = Heatmaps(heatmaps, map(Path, names)).write
        limits = settings.max_bytes, settings.threads
        found = verdicts(names, engine, Release(), *limits, show, _bucket)
        if sys.stdout.isatty() and not as_json:
            from rich.console import Console

            from cxr.progress import tabulate

            statuses = set(tabulate(found, lambda: count_inputs(names, _bucket), Console()))
        else:
            statuses = set()
            for verdict in found:
                statuses.add(verdict.status)
                typer.echo(verdict.to_json_line() if as_json else line(verdict))
    if not statuses:
        typer.echo(for_terminal(f"There are no X-rays in {', '.join(names)}: nothing was judged."), err=True)
    raise typer.Exit(1 if statuses - {"classified"} else 0)


@app.command("worker")
def worker_command(
    check: Annotated[
        bool, typer.Option("--check", help="Judge one test image and exit; exit code 0 if all is well.")
    ] = False,
) -> None:
    """Run the inference host: judge jobs that arrive over SSH on the loopback address."""
    from datetime import timedelta

    from ec2_runner.host import agent
    from ec2_runner.host.caller import check_caller_is_known
    from handlers import wiring
    from pipeline.verdict import Release

    settings = begin()
    if check:
        wiring.check_worker(settings)
        return
    check_root(settings)
    check_caller_is_known(settings.worker_token)
    store, release = wiring.make_store(settings), Release()
    service, token = wiring.make_service(store, settings, release), settings.worker_token
    if settings.host_id is None:
        agent.serve(service, settings.worker_port, token=token)
    else:
        publisher, idle = agent.Publisher(store, settings.host_id), timedelta(minutes=settings.idle_minutes)
        agent.serve(service, settings.worker_port, publisher, idle, agent.power_off, agent.HOST_KEY, token)


# A command's function is called NAME_command.
for _command in (
    training.explore_command,
    training.train_command,
    training.evaluate_command,
    training.export_command,
    training.calibrate_command,
    users.password_command,
    upkeep.replay_command,
    backfill_command,
    upkeep.forget_command,
    upkeep.export_dicom_command,
    upkeep.reconcile_command,
    deployment.deploy_command,
    deployment.status_command,
    deployment.destroy_command,
):
    app.command(_command.__name__.removesuffix("_command").replace("_", "-"))(_command)
index_app.command("rebuild")(upkeep.rebuild_command)


def run_command_line() -> None:
    """Run the command line; print an error as one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal may not know every letter of a name
    try:
        app()
    except Exception as error:
        if _verbose:
            raise
        code, message = explained(error)
        typer.echo(for_terminal(f"cxr: {message}"), err=True)
        sys.exit(code)


def _bucket(name: str) -> Store:
    from handlers import wiring

    return wiring.open_bucket(name)


def _server(page: Flask, address: str, settings: Settings) -> BaseWSGIServer:
    from pipeline.running.serving import make_server

    options: dict[str, Any] = {"max_request_body_size": page.config["MAX_CONTENT_LENGTH"]}
    options["clear_untrusted_proxy_headers"] = False  # web/access.py knows which proxies to trust
    options |= {"large": page.config["LARGE_BODIES"], "request_seconds": settings.dicom_total_seconds}
    try:
        return make_server(page, address, settings.port, 8, **options)
    except OSError as error:
        raise UsageError(
            f"cannot listen on port {settings.port} of {address} ({error.strerror}); "
            "name another --port or --host"
        ) from error
