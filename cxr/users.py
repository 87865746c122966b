"""`cxr password`: who may use the page."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import UsageError


def password(
    file: Annotated[
        Path | None,
        typer.Argument(help="The file of users; without it, and without CXR_USERS, the line is printed."),
    ] = None,
) -> None:
    """Ask for a name and a password of the page, and write them into the file of its users."""
    from pipeline.settings import load_settings
    from web.users import user_line, write_user

    path = file or load_settings().users
    if path and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise UsageError(f"{path} cannot be written; name a file in a folder that is there")
    name = typer.prompt("Name", err=True)
    secret = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    line = user_line(name.strip(), secret)
    if path is None:
        typer.echo(line)
        return
    write_user(path, line)
    typer.echo(f"{name.strip()} is in {path}. Start `cxr up` again, with CXR_USERS={path}.")
