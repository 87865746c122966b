"""Run `cxr replay`, `forget`, `export-dicom`, `reconcile` and `index rebuild` on a folder or a stack."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr.options import BucketOption, RootOption, StackOption, begin_with_existing_store, begin_with_store
from pipeline.errors import IndexNotReady, StoreError, UsageError
from pipeline.names import INBOX, for_terminal

if TYPE_CHECKING:
    from pipeline.records import Job
    from pipeline.settings import Settings

_LONGEST_JOB_SECONDS = 120.0  # the longest that a batch on a host takes, or a run of ReconcileFunction
_LOCAL_JOB_SECONDS = 2.0
_BATCH = 16  # X-rays per event


def replay_command(
    events: Annotated[list[Path], typer.Argument(help="Saved events, as S3, SQS or EventBridge JSON.")],
    root: RootOption = None,
) -> None:
    """Feed saved events to the handlers, on a folder. Print one line per record."""
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


def forget_command(
    key: Annotated[str, typer.Argument(help="Name of the X-ray in the inbox.")],
    root: RootOption = None,
    bucket: BucketOption = None,
    stack: StackOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Erase an X-ray permanently: every version of it, its verdict, its previews, its reviews and its row."""
    from handlers import wiring
    from pipeline.forget import erase_xray, is_known
    from pipeline.outgoing.queue import OutgoingQueue
    from pipeline.store.ledger import Ledger

    settings = begin_with_existing_store(root, bucket, stack)
    name = INBOX + key.removeprefix(INBOX)
    if name.endswith("/"):
        raise UsageError("name one X-ray in the inbox, not a folder")
    store, index = wiring.make_store(settings), wiring.make_index(settings)
    if not is_known(name, store, index):
        raise StoreError(f"nothing is stored for {for_terminal(name)}; look up its exact name in the inbox")
    if not yes:
        typer.confirm(f"Erase {for_terminal(name)} and its verdict permanently?", abort=True)
    quiet = _LONGEST_JOB_SECONDS if settings.bucket else _LOCAL_JOB_SECONDS
    typer.echo(
        f"erasing it; this takes {quiet:.0f} s, because a running job may still write its verdict", err=True
    )
    path = wiring.outgoing_path(settings)
    outgoing = OutgoingQueue(path) if path.exists() else None
    ledger = None if settings.bucket else Ledger(settings.root.resolve())
    erase_xray(name, store, index, quiet, outgoing, ledger)
    typer.echo(f"{for_terminal(name)} is erased")


def export_dicom_command(
    key: Annotated[str, typer.Argument(help="Name of the X-ray in the inbox.")],
    out: Annotated[Path, typer.Option(help="Folder for the files, which name the patient.")] = Path(),
    root: RootOption = None,
    bucket: BucketOption = None,
    stack: StackOption = None,
) -> None:
    """Write a verdict as DICOM files for the study of its X-ray: a structured report and a capture."""
    from handlers import wiring

    settings = begin_with_existing_store(root, bucket, stack)
    if not settings.bucket and out.resolve().is_relative_to((settings.root / INBOX).resolve()):
        raise UsageError(f"{out} is in the inbox: the files would be judged, too; name another --out")
    results = wiring.make_results(wiring.make_store(settings), settings)
    for made in results.make(INBOX + key.removeprefix(INBOX)):
        path = out / f"{made.kind}-{made.uid}.dcm"
        try:
            out.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made.data)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}); name another --out") from error
        typer.echo(for_terminal(str(path)))


def reconcile_command(
    root: RootOption = None,
    bucket: BucketOption = None,
    stack: StackOption = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also judge X-rays whose verdict is `failed`.")
    ] = False,
) -> None:
    """Judge every X-ray that has no verdict: in this process, or through the queue of the bucket's stack."""
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
    """Judge the X-rays of a folder in this process; exit code 1 if one of them could not be judged."""
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


def rebuild_command(root: RootOption = None, bucket: BucketOption = None, stack: StackOption = None) -> None:
    """Rebuild the worklist from the outbox."""
    from handlers import wiring
    from pipeline.worklist.rebuild import rebuild_index

    settings = begin_with_existing_store(root, bucket, stack)
    store, index = wiring.make_store(settings), wiring.make_index(settings)
    try:
        found = rebuild_index(store, index)
    except IndexNotReady:  # damage that opening did not reveal; by now the index is new
        found = rebuild_index(store, index)
    typer.echo(f"{found.verdicts} verdicts in the worklist")
    for key in found.unreadable:
        typer.echo(f"skipped, not a readable verdict: {for_terminal(key)}", err=True)
    if found.unreadable:
        typer.echo("Delete these objects; then `cxr reconcile` judges their X-rays again.", err=True)


class _Collected:
    """Collect the keys that `reconcile` sends, to judge them in this process."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def send(self, jobs: Iterable[Job], delay: float = 0) -> None:
        self.keys += (job.key for job in jobs)

    def has_later(self, job: Job) -> bool:
        """Return False: no message came from here."""
        return False

    def hasten(self, receipts: Mapping[str, float]) -> None:
        """Do nothing: no message was taken."""

    def oldest_sent(self, now: datetime) -> None:
        """Return None: nothing waits here."""


def _load_event(path: Path) -> dict[str, Any]:
    try:
        event = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not a JSON event: {error}") from error
    if not isinstance(event, dict):
        raise UsageError(f"{path} is not an event: an event is a JSON object")
    return event
