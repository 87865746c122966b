"""Speak SSH, by Paramiko: to a host whose key is known beforehand, with streams to its loopback.

Nothing is sent, not even the user's name, before the host has proved that it holds the pinned key.
"""

import io
import socket
from pathlib import Path
from typing import Protocol, cast

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ec2_runner.reach.worker_client import ByteStream, remaining
from pipeline.errors import HostError, UsageError

_PROBE_SECONDS = 3.0  # for a kept connection, which may be dead: a Lambda sandbox may have been frozen
_KEEPALIVE_SECONDS = 15


class ConnectFailed(HostError):
    """Report that the host could not be reached, or does not let us in."""


class WrongHostKey(HostError):
    """Report an answer from something that is not the host; a person must look."""


class NobodyListens(HostError):
    """Report that the host was reached, but its worker does not run."""


class Pipe(Protocol):
    """Carry SSH: a socket, or a tunnel that behaves like one."""

    def settimeout(self, value: float | None) -> None: ...
    def send(self, data: bytes) -> int: ...
    def recv(self, size: int) -> bytes: ...
    def close(self) -> None: ...


class Connection:
    """Hold an open connection; a stream through it costs a millisecond."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    def open(self, port: int) -> ByteStream:
        """Return a stream to a port of the host's loopback.

        Raises ConnectFailed when the connection is dead, NobodyListens when only the port is.
        """
        try:
            target, origin = ("127.0.0.1", port), ("127.0.0.1", 0)
            channel = self._transport.open_channel("direct-tcpip", target, origin, timeout=_PROBE_SECONDS)
            return cast(ByteStream, channel)
        except paramiko.ChannelException as error:
            raise NobodyListens(f"nothing listens on the host's port {port}") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectFailed("the connection to the host is dead") from error

    @property
    def is_alive(self) -> bool:
        """Return whether the connection is alive, as far as this end knows."""
        return bool(self._transport.is_active())

    def close(self) -> None:
        """End the connection and its streams."""
        self._transport.close()


def connect(pipe: Pipe, user: str, keys: list[paramiko.PKey], host_key: str, deadline: float) -> Connection:
    """Open an SSH connection over `pipe`, and return it.

    The host has to prove that it holds `host_key` (`ssh-ed25519 AAAA...`); then the first of the keys that it
    accepts logs in. `deadline` is on the monotonic clock. Raises WrongHostKey or ConnectFailed; the pipe is
    then closed.
    """
    kind, pinned = host_key.split()[:2]
    transport = None
    try:
        transport = paramiko.Transport(pipe)  # accepts anything with these methods of a socket
        transport.get_security_options().key_types = (kind,)  # else it may offer a key of another kind
        transport.banner_timeout = remaining(deadline)
        transport.start_client(timeout=remaining(deadline))
        if transport.get_remote_server_key().get_base64() != pinned:
            raise WrongHostKey("the host's key is not the one that it published")
        transport.auth_timeout = remaining(deadline)
        _log_in(transport, user, keys)
        transport.set_keepalive(_KEEPALIVE_SECONDS)
        return Connection(transport)
    except BaseException as error:
        (transport or pipe).close()
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
            raise WrongHostKey("the host offers no key of the kind that it published") from error
        if isinstance(error, paramiko.SSHException | EOFError | OSError):
            raise ConnectFailed(f"SSH with the host failed ({type(error).__name__})") from error
        raise


def fresh_key() -> tuple[paramiko.PKey, str]:
    """Return a new ed25519 key pair that exists in memory alone, and its public half as one line."""
    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(text))
    return key, f"{key.get_name()} {key.get_base64()}"


def own_keys(path: Path | None) -> list[paramiko.PKey]:
    """Return the key of a file, or those of the SSH agent; raise UsageError when there is none."""
    try:
        keys = [paramiko.PKey.from_path(path)] if path else list(paramiko.Agent().get_keys())
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise UsageError(f"CXR_SSH_KEY: not a usable private key ({type(error).__name__})") from error
    if not keys:
        raise UsageError("CXR_SSH_KEY: name a private key's file, or add a key to the SSH agent")
    return keys


def dial(address: str, port: int, deadline: float) -> socket.socket:
    """Open a TCP connection; raise ConnectFailed when there is no answer."""
    try:
        pipe = socket.create_connection((address, port), timeout=remaining(deadline))
        # Without this, small packets wait 40 ms for an answer.
        pipe.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return pipe
    except OSError as error:
        raise ConnectFailed(f"the host does not answer ({type(error).__name__})") from error


def _log_in(transport: paramiko.Transport, user: str, keys: list[paramiko.PKey]) -> None:
    for number, key in enumerate(keys, 1):
        try:
            transport.auth_publickey(user, key)
            return
        except paramiko.AuthenticationException:
            if number == len(keys):
                raise
