"""Run `cxr password`, which adds a user of the page."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cxr.options import begin
from pipeline.errors import UsageError


def password_command(
    file: Annotated[
        Path | None,
        typer.Argument(help="File of users (default: CXR_USERS; if neither is set, the line is printed)."),
    ] = None,
) -> None:
    """Ask for a name and a password, and add them to the file of the page's users."""
    from web.users import user_line, write_user

    settings = begin()
    path = file or settings.users
    if path and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise UsageError(f"{path} cannot be written; name a file in an existing folder")
    name = typer.prompt("Name", err=True)
    secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    line = user_line(name.strip(), secret)
    if path is None:
        typer.echo(line)
        return
    write_user(path, line)
    typer.echo(f"{name.strip()} was added to {path}. Restart `cxr up` with CXR_USERS={path}.")
