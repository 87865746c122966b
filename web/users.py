"""The file of those who may use the page: a line `name:hash` for each."""

import os
import re
from pathlib import Path

from werkzeug.security import generate_password_hash

from pipeline.errors import UsageError

_METHOD = "scrypt:32768:8:1"  # 32 MiB and tens of milliseconds for each guess; the same for every user
_LINE = re.compile(rf"([^:\s][^:\x00-\x1f\x7f]{{0,63}}):({_METHOD}\$[^$:\s]+\$[0-9a-f]{{128}})")
_SHORTEST = 12  # characters of a password


def read_users(path: Path) -> dict[str, str]:
    """The hash of each name; UsageError when the file cannot be read, or does not hold such lines."""
    users: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if not match or match[1] in users:
            reason = "its name is there twice" if match else "it is no name:hash"
            raise UsageError(f"{path}, line {number}: {reason}; write such lines with `cxr password`")
        users[match[1]] = match[2]
    if not users:
        raise UsageError(f"{path} names nobody; make a line of it with `cxr password`")
    return users


def user_line(name: str, password: str) -> str:
    """The line of a user; UsageError says what is wrong with the name or the password."""
    if len(password) < _SHORTEST:
        raise UsageError(f"the password is too short: take one of at least {_SHORTEST} characters")
    line = f"{name}:{generate_password_hash(password, _METHOD)}"
    if not _LINE.fullmatch(line) or name.startswith("#"):
        raise UsageError("the name cannot be used: take 1 to 64 characters, no colon, no # in front")
    return line


def write_user(path: Path, line: str) -> None:
    """Put the line into the file, in place of an earlier one of its name; its owner alone may read it."""
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
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path} cannot be read as a file of users: {reason}") from error
