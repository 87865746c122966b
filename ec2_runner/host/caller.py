"""Check the callers of a worker: its port is open to every user and browser of the machine."""

import hmac
import os
import re
import socket
from pathlib import Path

from flask import Request

from pipeline.errors import UsageError

# The functions of release 4 use the name `worker`.
_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\]|worker)(:[0-9]{1,5})?", re.IGNORECASE)
_CONNECTIONS = Path("/proc/net/tcp")
_ESTABLISHED = "01"  # in other states the kernel may have forgotten the connection's user
_ROOT = 0


def is_program_here(request: Request) -> bool:
    """Return whether a request names this machine as its host, and does not come from a browser.

    A page of another site can make a browser send almost anything to the loopback, but not without these
    headers; and with a name of its own that resolves to here (DNS rebinding), not under one of our names.
    """
    from_browser = "Origin" in request.headers or "Sec-Fetch-Site" in request.headers
    return bool(_HOST.fullmatch(request.headers.get("Host", ""))) and not from_browser


def may_ask(request: Request, token: str | None) -> bool:
    """Return whether the caller knows the token; without one, whether it runs as our own user, or root.

    The kernel knows whose a connection is, so the port is closed to others like a Unix socket of mode 0600.
    Through SSH, the caller is the user who logged in.
    """
    if token:
        given = request.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
    port = str(request.environ.get("REMOTE_PORT", ""))
    table = _CONNECTIONS.read_text() if port.isdecimal() else ""
    here = int(request.environ.get("SERVER_PORT", 0))
    return user_of(table, int(port or 0), here) in (os.getuid(), _ROOT)


def user_of(table: str, port: int, here: int) -> int | None:
    """Return the user whose connection goes from `port` of the loopback to the port `here`, by /proc/net/tcp.

    man7.org/linux/man-pages/man5/proc_pid_net.5.html
    """
    address = socket.inet_aton("127.0.0.1")[::-1].hex().upper()
    wanted = [f"{address}:{port:04X}", f"{address}:{here:04X}", _ESTABLISHED]
    for line in table.splitlines()[1:]:
        words = line.split()
        if words[1:4] == wanted:
            return int(words[7])
    return None


def check_caller_is_known(token: str | None) -> None:
    """Raise UsageError where the worker could not tell who its callers are."""
    if not token and not _CONNECTIONS.exists():
        raise UsageError(
            "CXR_WORKER_TOKEN is needed on this system: a secret of 16 characters or more that senders of "
            "jobs have to be given, too"
        )
