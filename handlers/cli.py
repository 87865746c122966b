"""`cxr forget`, `cxr reconcile`, `cxr index rebuild`: over the folder, or over a bucket and its stack."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import StoreError, UsageError
from pipeline.names import INBOX
from pipeline.settings import Settings, load_settings

Root = Annotated[
    Path | None, typer.Option(help="The folder with inbox/ and outbox/.  [default: ./data, or CXR_ROOT]")
]
Bucket = Annotated[str | None, typer.Option(help="A bucket instead of a folder.")]
Stack = Annotated[str | None, typer.Option(help="Of the bucket.  [default: cxr-inbox, or CXR_STACK]")]


def settings_of(root: Path | None, bucket: str | None, stack: str | None) -> Settings:
    """The settings of a folder, or of a bucket whose worklist is its stack's."""
    if bucket is None:
        return load_settings(root=root)
    return load_settings(root=root, store="s3", index="dynamodb", bucket=bucket, stack=stack)


def forget(
    key: Annotated[str, typer.Argument(help="The name in the inbox.")],
    root: Root = None,
    bucket: Bucket = None,
    stack: Stack = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase an X-ray for good: every version of it, its verdict, its previews, its row."""
    from handlers import wiring
    from pipeline.forget import forget as erase

    settings = settings_of(root, bucket, stack)
    name = INBOX + key.removeprefix(INBOX)
    if name.endswith("/"):
        raise UsageError("name one X-ray of the inbox, not a folder")
    if not yes:
        typer.confirm(f"Erase {name} and its verdict for good?", abort=True)
    if not erase(name, wiring.make_store(settings), wiring.make_index(settings)):
        raise StoreError(f"there is nothing of {name}; see the inbox for its exact name")
    typer.echo(f"{name} is erased")


def reconcile(
    root: Root = None,
    bucket: Bucket = None,
    stack: Stack = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also what has a verdict that says `failed`.")
    ] = False,
) -> None:
    """Have everything judged that has no verdict of its own: here, or by the queue of the bucket's stack."""
    from handlers import local, wiring
    from pipeline.events import s3_event
    from pipeline.reconcile import reconcile as look

    settings = settings_of(root, bucket, stack)
    store, index = wiring.make_store(settings), wiring.make_index(settings)
    queue = wiring.find_queue(settings) if bucket else None
    here = _Collected()
    found = look(store, index, queue or here, datetime.now(UTC), timedelta(0), failed)
    if queue:
        typer.echo(f"{found.queued} queued, {found.waiting} without a verdict")
        return
    wiring.provide(wiring.make_ports(settings))
    for key in here.keys:
        for outcome in local.deliver(s3_event(store.bucket, [key])).outcomes:
            typer.echo(f"{outcome['key']}: {outcome['result']}")
    typer.echo(f"{found.queued} judged")


def rebuild(root: Root = None, bucket: Bucket = None, stack: Stack = None) -> None:
    """Make the worklist again from the outbox."""
    from handlers import wiring
    from pipeline.intake import rebuild_index

    settings = settings_of(root, bucket, stack)
    count = rebuild_index(wiring.make_store(settings), wiring.make_index(settings))
    typer.echo(f"{count} verdicts in the worklist")


class _Collected:
    """A queue that is worked off here."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def send(self, keys: Iterable[str], since: datetime, delay: float = 0) -> None:
        self.keys += keys
