"""The file of users of the page, one line `name:hash` for each user."""

import os
import re
from pathlib import Path

from werkzeug.security import generate_password_hash

from pipeline.errors import UsageError

_METHOD = "scrypt:32768:8:1"  # 32 MiB and tens of milliseconds for each guess; the same for every user
_LINE = re.compile(rf"([^:\s][^:\x00-\x1f\x7f]{{0,63}}):({_METHOD}\$[^$:\s]+\$[0-9a-f]{{128}})")
_SHORTEST = 12  # characters of a password


def read_users(path: Path) -> dict[str, str]:
    """Return the password hash of each user; raise UsageError if the file is not a file of users."""
    users: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if not match or match[1] in users:
            reason = "the name occurs twice" if match else "this is not name:hash"
            raise UsageError(f"{path}, line {number}: {reason}; write the lines with `cxr password`")
        users[match[1]] = match[2]
    if not users:
        raise UsageError(f"{path} has no users; add one with `cxr password`")
    return users


def user_line(name: str, password: str) -> str:
    """Return the line of a user; raise UsageError if the name or the password cannot be used."""
    if len(password) < _SHORTEST:
        raise UsageError(f"the password is too short: choose one of at least {_SHORTEST} characters")
    line = f"{name}:{generate_password_hash(password, _METHOD)}"
    if not _LINE.fullmatch(line) or name.startswith("#"):
        raise UsageError(
            "the name cannot be used: choose 1 to 64 characters, without a colon and not beginning with #"
        )
    return line


def write_user(path: Path, line: str) -> None:
    """Add a user's line to the file, replacing an earlier one; only the file's owner may read it."""
    start = line.partition(":")[0] + ":"
    kept = [other for other in (_lines(path) if os.path.lexists(path) else []) if not other.startswith(start)]
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(f"{each}\n" for each in [*kept, line])
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another file") from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"{path} cannot be read as a file of users: {reason}") from error
