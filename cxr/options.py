"""Define the options that several commands share, and load the settings of a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from pipeline.names import INBOX, OUTBOX
from pipeline.running.logs import start_logging

if TYPE_CHECKING:
    from pipeline.settings import Settings

RootOption = Annotated[
    Path | None, typer.Option(help="Folder with inbox/ and outbox/ (default: ./data, or CXR_ROOT).")
]
BucketOption = Annotated[
    str | None, typer.Option(help="Bucket to use instead of a folder (default: CXR_BUCKET, if set).")
]
StackOption = Annotated[
    str | None, typer.Option(help="AWS stack of the bucket (default: cxr-inbox, or CXR_STACK).")
]


def begin(**changes: object) -> Settings:
    """Load the settings, apply a command's options and start logging. Every command calls this first."""
    from pipeline.settings import load_settings

    settings = load_settings(**changes)
    start_logging(settings.log_level)
    if settings.region:  # for all AWS clients of this process
        os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = settings.region
    return settings


def begin_with_store(
    root: Path | None, bucket: str | None, stack: str | None = None, **changes: object
) -> Settings:
    """Load the settings for a folder, or for a bucket and its stack.

    A folder named on the command line comes before a bucket named in a variable or in cxr.toml.
    """
    settings = begin(root=root, bucket=bucket, stack=stack, **changes)
    return settings.model_copy(update={"bucket": None}) if root and not bucket else settings


def begin_with_existing_store(root: Path | None, bucket: str | None, stack: str | None) -> Settings:
    """Load the settings for a bucket or an existing root; raise UsageError if the folder is not a root."""
    settings = begin_with_store(root, bucket, stack)
    check_root(settings)
    if not settings.bucket and not any((settings.root / name).is_dir() for name in (INBOX, OUTBOX)):
        raise UsageError(
            f"{settings.root} has no inbox/ or outbox/; name the folder that has them with --root"
        )
    return settings


def check_root(settings: Settings) -> None:
    """Raise UsageError if the root does not exist: a typo must not create a folder."""
    root = settings.root
    if not settings.bucket and not os.path.isdir(root):  # noqa: PTH112  False, too, if it may not be read
        raise UsageError(f"{root}: there is no such folder; name the one with inbox/ and outbox/ with --root")
