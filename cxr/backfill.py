"""Judge a whole archive with `cxr backfill`, on this machine or on a Ray cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cxr.options import begin
from pipeline.errors import UsageError
from pipeline.names import INBOX, for_terminal, printable

if TYPE_CHECKING:
    from pipeline.backfill import Done
    from pipeline.records import Job
    from pipeline.settings import Settings


def backfill_command(
    source: Annotated[str, typer.Argument(help="Archive to judge: a folder or s3://bucket/folder.")],
    outbox: Annotated[
        str, typer.Argument(help="Where to write the verdicts: a folder or s3://bucket/folder.")
    ],
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Judge in this process, or with Ray on several processes or machines."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With Ray: number of worker processes (default: one per core)."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="With Ray: address of the cluster; `auto` on its head node (default: this machine)."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON per image on standard output, and nothing else."),
    ] = False,
) -> None:
    """Judge a whole archive. Exit code 1 if an image could not be judged.

    Run it again to continue after an interruption, or to judge with a newer release or another network.
    Images whose verdict is current are skipped.
    """
    from rich.console import Console

    from cxr import progress
    from cxr.archive import is_empty, open_archive

    if engine == "local" and (workers or address):
        raise UsageError("--workers and --address need --engine ray; without Ray, set CXR_THREADS")
    settings = begin()
    if is_empty(source) and outbox:
        typer.echo(for_terminal(f"There are no X-rays in {source}: nothing was judged."), err=True)
        return
    store = open_archive(source, outbox)
    start = time.monotonic()
    if engine == "ray":
        answers = _with_ray(source, outbox, settings, workers, address)
    else:
        answers = _here(source, outbox, settings, store.jobs())
    if as_json:
        answers = _printed(answers)
    tally = progress.follow(answers, lambda: sum(1 for _ in store.jobs()), Console(stderr=True))
    progress.show_summary(tally, time.monotonic() - start, Console(stderr=as_json))
    raise typer.Exit(1 if tally.bad or tally.reasons else 0)  # like `cxr classify`


def _printed(answers: Iterator[Done]) -> Iterator[Done]:
    """Print each answer as a line of JSON on standard output, and pass it on."""
    for done in answers:
        line = {**asdict(done), "key": printable(done.key.removeprefix(INBOX))}
        typer.echo(json.dumps({name: value for name, value in line.items() if value not in (None, "")}))
        yield done


def _here(source: str, outbox: str, settings: Settings, jobs: Iterator[Job]) -> Iterator[Done]:
    from cxr.archive import make_backfill

    with closing(make_backfill(source, outbox, settings)) as judging:
        yield from judging.run(jobs)


def _with_ray(
    source: str, outbox: str, settings: Settings, workers: int | None, address: str | None
) -> Iterator[Done]:
    try:
        from cxr.backfill_ray import backfill_with_ray
    except ImportError as error:
        raise UsageError("Ray is not installed: pip install 'cxr-inbox[ray]'") from error
    return backfill_with_ray(source, outbox, settings, workers, address)
