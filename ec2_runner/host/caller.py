"""Check the callers of a worker: its port is open to every user and browser of the machine."""

import errno
import hmac
import os
import re
import socket
import struct
from pathlib import Path

from flask import Request

from pipeline.errors import UsageError

# The functions of release 4 use the name `worker`.
_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\]|worker)(:[0-9]{1,5})?", re.IGNORECASE)
_CONNECTIONS = Path("/proc/net/tcp")
_ESTABLISHED = "01"  # in other states the kernel may have forgotten the connection's user
_ROOT = 0
# Of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
_SOCK_DIAG, _BY_FAMILY, _REQUEST, _HEAD, _NO_COOKIE = 4, 20, 1, 16, (0xFFFF_FFFF, 0xFFFF_FFFF)
_SECONDS = 1.0  # for the kernel's answer


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
    port, here = (int(request.environ.get(name, 0)) for name in ("REMOTE_PORT", "SERVER_PORT"))
    return caller(port, here) in (os.getuid(), _ROOT)


def caller(port: int, here: int) -> int | None:
    """Return the user whose connection goes from `port` of the loopback to the port `here`; None if unknown.

    The kernel is asked for this connection (man7.org/linux/man-pages/man7/sock_diag.7.html). Where it does
    not answer, its list of all connections says the same, in milliseconds.
    """
    try:
        return _asked(port, here)
    except (OSError, AttributeError, struct.error):
        return user_of(_CONNECTIONS.read_text(), port, here)


def _asked(port: int, here: int) -> int | None:
    loopback = socket.inet_aton("127.0.0.1")
    ends = struct.pack(">HH16s16s", port, here, loopback, loopback)
    wanted = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 1 << int(_ESTABLISHED)) + ends
    body = wanted + struct.pack("=III", 0, *_NO_COOKIE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(_SECONDS)
        kernel.sendto(struct.pack("=IHHII", _HEAD + len(body), _BY_FAMILY, _REQUEST, 1, 0) + body, (0, 0))
        answer = kernel.recv(4096)
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind == _BY_FAMILY and answer[_HEAD + 1] == int(_ESTABLISHED) and answer[_HEAD + 4 :].startswith(ends):
        return int(struct.unpack_from("=I", answer, _HEAD + 64)[0])
    if struct.unpack_from("=Hxxxxxxxxxxi", answer, 4)[1] == -errno.ENOENT:
        return None
    raise OSError("the kernel does not tell")


def user_of(table: str, port: int, here: int) -> int | None:
    """Return the same from the text of /proc/net/tcp: man7.org/linux/man-pages/man5/proc_pid_net.5.html."""
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
