"""The options that several commands share, and the settings that a command begins with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from pipeline.logs import start_logging
from pipeline.names import INBOX, OUTBOX

if TYPE_CHECKING:
    from pipeline.settings import Settings

Root = Annotated[
    Path | None, typer.Option(help="The folder with inbox/ and outbox/.  [default: ./data, or CXR_ROOT]")
]
Bucket = Annotated[
    str | None, typer.Option(help="Use a bucket instead of a folder.  [default: CXR_BUCKET, if set]")
]
Stack = Annotated[str | None, typer.Option(help="The bucket's stack.  [default: cxr-inbox, or CXR_STACK]")]


def begin(**changes: object) -> Settings:
    """Return the settings, changed by a command's options, and log as they say; every command begins so."""
    from pipeline.settings import load_settings

    settings = load_settings(**changes)
    start_logging(settings.log_level)
    if settings.region:
        os.environ["AWS_DEFAULT_REGION"] = settings.region  # for all AWS clients of this process
    return settings


def begin_with_store(
    root: Path | None, bucket: str | None, stack: str | None = None, **changes: object
) -> Settings:
    """Return the settings of a folder, or of a bucket and its stack.

    A folder that the command names comes before a bucket of the environment or of cxr.toml.
    """
    settings = begin(root=root, bucket=bucket, stack=stack, **changes)
    return settings.model_copy(update={"bucket": None}) if root and not bucket else settings


def begin_with_existing_store(root: Path | None, bucket: str | None, stack: str | None) -> Settings:
    """Return the settings of a folder that is a root already, or of a bucket; else raise UsageError."""
    settings = begin_with_store(root, bucket, stack)
    check_root(settings)
    if not settings.bucket and not any((settings.root / name).is_dir() for name in (INBOX, OUTBOX)):
        raise UsageError(f"{settings.root}: there is no inbox/ in it; name the folder that has it as --root")
    return settings


def check_root(settings: Settings) -> None:
    """Raise UsageError where the settings name a folder that is not there: a typo must make none."""
    root = settings.root
    if not settings.bucket and not os.path.isdir(root):  # noqa: PTH112  also where it may not be looked at
        raise UsageError(f"{root}: there is no such folder; name the one with inbox/ and outbox/ as --root")
