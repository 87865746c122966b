"""`cxr replay`, `forget`, `reconcile` and `index rebuild`: over a folder, or a bucket and its stack."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr.options import Bucket, Root, Stack, begin_with_existing_store, begin_with_store
from pipeline.errors import IndexNotReady, StoreError, UsageError
from pipeline.names import INBOX, for_terminal

if TYPE_CHECKING:
    from pipeline.settings import Settings

_LONGEST_JOB_SECONDS = 90.0  # a batch of a bucket's host may last so long
_LOCAL_JOB_SECONDS = 2.0
_BATCH = 16  # X-rays that are judged together


def replay(
    events: Annotated[list[Path], typer.Argument(help="Saved events: S3, SQS or EventBridge JSON.")],
    root: Root = None,
) -> None:
    """Feed saved events through the handlers over the folder: a line for each record."""
    from cxr import local
    from handlers import wiring

    failed, loaded = False, [(path, _load_event(path)) for path in events]
    with wiring.provided(begin_with_store(root, None)):
        for path, event in loaded:
            answer = local.deliver(event)
            for outcome in answer.outcomes:
                typer.echo(for_terminal(f"{path.name}: {outcome['key']}: {outcome['result']}"))
                failed |= outcome["result"] in ("failed", "given_up")
            for reason in answer.ignored:
                typer.echo(for_terminal(f"{path.name}: ignored: {reason}"))
    raise typer.Exit(1 if failed else 0)


def forget(
    key: Annotated[str, typer.Argument(help="The name in the inbox.")],
    root: Root = None,
    bucket: Bucket = None,
    stack: Stack = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase an X-ray for good: every version of it, its verdict, its previews, its row."""
    from handlers import wiring
    from pipeline.forget import erase_xray, is_known

    settings = begin_with_existing_store(root, bucket, stack)
    name = INBOX + key.removeprefix(INBOX)
    if name.endswith("/"):
        raise UsageError("name one X-ray of the inbox, not a folder")
    store, index = wiring.make_store(settings), wiring.make_index(settings)
    if not is_known(name, store, index):
        raise StoreError(f"there is nothing of {for_terminal(name)}; see the inbox for its exact name")
    if not yes:
        typer.confirm(f"Erase {for_terminal(name)} and its verdict for good?", abort=True)
    quiet = _LONGEST_JOB_SECONDS if settings.bucket else _LOCAL_JOB_SECONDS
    typer.echo(f"erasing it, and what a job at work may still write, for {quiet:.0f} s", err=True)
    erase_xray(name, store, index, quiet)
    typer.echo(f"{for_terminal(name)} is erased")


def reconcile(
    root: Root = None,
    bucket: Bucket = None,
    stack: Stack = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also judge again what has a verdict that says `failed`.")
    ] = False,
) -> None:
    """Have everything judged that has no verdict of its own: here, or by the queue of the bucket's stack."""
    from handlers import wiring
    from pipeline.reconcile import reconcile_inbox

    settings = begin_with_existing_store(root, bucket, stack)
    if not settings.bucket:
        return _reconcile_here(settings, failed)
    queue = wiring.make_queue(settings) or wiring.find_queue(settings)
    store, index = wiring.make_store(settings), wiring.make_index(settings)
    found = reconcile_inbox(store, index, queue, datetime.now(UTC), timedelta(0), failed)
    typer.echo(f"{found.queued} queued, {found.waiting} without a verdict")
    return None


def _reconcile_here(settings: Settings, failed: bool) -> None:
    """Judge what is found in the folder; exit code 1 when one of them could not be judged."""
    from cxr import local
    from handlers import wiring
    from pipeline.events import s3_event
    from pipeline.reconcile import reconcile_inbox

    queue, results = _Collected(), []
    with wiring.provided(settings) as ports:
        reconcile_inbox(ports.store, ports.index, queue, datetime.now(UTC), timedelta(0), failed)
        keys = iter(queue.keys)
        while batch := list(islice(keys, _BATCH)):
            for outcome in local.deliver(s3_event(ports.store.bucket, batch)).outcomes:
                typer.echo(for_terminal(f"{outcome['key']}: {outcome['result']}"))
                results.append(outcome["result"])
    bad = sum(result in ("failed", "given_up") for result in results)
    typer.echo(f"{len(results) - bad} judged, {bad} failed" if bad else f"{len(results)} judged")
    raise typer.Exit(1 if bad else 0)


def rebuild(root: Root = None, bucket: Bucket = None, stack: Stack = None) -> None:
    """Make the worklist again from the outbox."""
    from handlers import wiring
    from pipeline.worklist.rebuild import rebuild_index

    settings = begin_with_existing_store(root, bucket, stack)
    store, index = wiring.make_store(settings), wiring.make_index(settings)
    try:
        found = rebuild_index(store, index)
    except IndexNotReady:  # it met damage that opening it had not shown; what is there now is new
        found = rebuild_index(store, index)
    typer.echo(f"{found.verdicts} verdicts in the worklist")
    for key in found.unreadable:
        typer.echo(f"set aside, for it is no verdict that can be read: {for_terminal(key)}", err=True)
    if found.unreadable:
        typer.echo("Delete these objects; `cxr reconcile` then has their X-rays judged.", err=True)


class _Collected:
    """A queue that is worked off here."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def send(self, keys: Iterable[str], since: datetime, delay: float = 0) -> None:
        self.keys += keys


def _load_event(path: Path) -> dict[str, Any]:
    try:
        event = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} holds no JSON event: {error}") from error
    if not isinstance(event, dict):
        raise UsageError(f"{path} holds no event: an event is a JSON object")
    return event
