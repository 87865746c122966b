"""`cxr backfill`: an archive judged at once, on this machine or on a cluster."""

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


def backfill(
    source: Annotated[str, typer.Argument(help="The archive: a folder, or s3://bucket/folder.")],
    outbox: Annotated[str, typer.Argument(help="Where its verdicts go: a folder, or s3://bucket/folder.")],
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Judge in this process, or on Ray's workers.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="With Ray: number of processes, one per core.  [default: all cores]"),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="With Ray: address of the cluster, `auto` on its head node.  [default: this machine]"
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one line of JSON per image, and nothing else, on standard output."
        ),
    ] = False,
) -> None:
    """Judge an archive at once. Run it again to go on after a break, or with a later release or network:
    what has its verdict is left alone. Exit code 1 when one of them could not be judged.
    """
    from rich.console import Console

    from cxr import progress
    from cxr.archive import is_empty, open_archive

    if engine == "local" and (workers or address):
        raise UsageError("--workers and --address are for Ray: add --engine ray, or set CXR_THREADS")
    settings = begin()
    if is_empty(source) and outbox:
        typer.echo(for_terminal(f"There is no X-ray in {source}: nothing was judged."), err=True)
        return
    store = open_archive(source, outbox)
    start = time.monotonic()
    if engine == "ray":
        answers = _with_ray(source, outbox, settings, workers, address)
    else:
        answers = _here(source, outbox, settings, store.jobs())
    if as_json:
        answers = _told(answers)
    tally = progress.follow(answers, lambda: sum(1 for _ in store.jobs()), Console(stderr=True))
    progress.summary(tally, time.monotonic() - start, Console(stderr=as_json))
    raise typer.Exit(1 if tally.bad or tally.reasons else 0)  # as `cxr classify`


def _told(answers: Iterator[Done]) -> Iterator[Done]:
    """The same answers; each is a line of JSON on standard output."""
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
        from cxr.backfill_ray import run
    except ImportError as error:
        raise UsageError("Ray is not installed: pip install 'cxr-inbox[ray]'") from error
    return run(source, outbox, settings, workers, address)
