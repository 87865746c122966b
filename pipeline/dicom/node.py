"""Listen for senders of X-rays: a DICOM node that answers C-ECHO and C-STORE."""

import logging
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pipeline.dicom import pdu
from pipeline.dicom.arrivals import Arrivals, Kinds
from pipeline.dicom.association import Association, EndedError, LostError, Terms, Wire
from pipeline.dicom.commitment import CommitmentReports
from pipeline.errors import HostError, UsageError, place_of
from pipeline.settings import Settings

log = logging.getLogger(__name__)

_SPARE = 8  # connections beyond the limit that are read, to be told that it is reached
_WAITING = 64  # connections that the system keeps for us
_TICK_SECONDS = 0.1
_HANDSHAKE_SECONDS = 10.0
_STOP_SECONDS = 3.0  # to put received objects into the inbox when the node stops
_AGAIN_SECONDS, _MOST_TOLD = 600.0, 1_000  # before the same is told again; texts that are remembered


@dataclass(frozen=True)
class Door:
    """Hold where the node listens, and whom it lets in."""

    address: str
    port: int
    callers: tuple[IPv4Network | IPv6Network, ...]
    most: int  # associations at a time
    tls: ssl.SSLContext | None = None


def door_of(settings: Settings) -> Door:
    """Read the door from the settings; raise UsageError if they are wrong, or nobody could pass it."""
    assert settings.dicom_port is not None  # the caller checked it
    try:
        listen = ip_address(settings.dicom_address)
    except ValueError:
        wrong = f"dicom_address takes an address, such as 127.0.0.1, not {settings.dicom_address}"
        raise UsageError(wrong) from None
    try:
        callers = tuple(ip_network(one, strict=False) for one in settings.dicom_callers)
    except ValueError as error:
        raise UsageError(f"dicom_callers takes addresses and networks: {error}") from None
    if not listen.is_loopback and all(network.is_loopback for network in callers):
        raise UsageError(
            f"no sender on the network could reach the DICOM node at {listen}: name the senders' addresses "
            "or networks in dicom_callers"
        )
    return Door(str(listen), settings.dicom_port, callers, settings.dicom_associations, _tls(settings))


def terms_of(settings: Settings, kinds: Kinds) -> Terms:
    """Read from the settings what is agreed to with each sender."""
    return Terms(
        settings.ae_title,
        frozenset(settings.calling_ae_titles),
        kinds.classes,
        kinds.syntaxes,
        settings.dicom_idle_seconds,
        settings.dicom_total_seconds,
    )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    certificate, key, authority = settings.dicom_certificate, settings.dicom_key, settings.dicom_client_ca
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise UsageError("TLS for the DICOM node needs both dicom_certificate and dicom_key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
        if authority:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the TLS files of the DICOM node cannot be used: {why}") from error
    return context


def _no_password() -> str:
    raise ValueError("the key has a password; remove it with openssl")


class Node:
    """Accept associations while `run` runs; each has a thread of its own.

    The node listens from its construction on, which raises OSError when it cannot. With `reports`, it takes
    reports of storage commitment.
    """

    def __init__(
        self, door: Door, terms: Terms, arrivals: Arrivals, reports: CommitmentReports | None = None
    ) -> None:
        self._door, self._terms, self._arrivals, self._reports = door, terms, arrivals, reports
        self._listener: socket.socket | None = _listen(door.address, door.port)
        self.port = int(self._listener.getsockname()[1])
        self._open: dict[socket.socket, threading.Thread] = {}
        self._guard = threading.Lock()
        self._told: dict[str, float] = {}  # when what was told last
        self._stopping = threading.Event()

    def run(self, stopping: threading.Event) -> None:
        """Serve until `stopping` is set; raise HostError when the port is not free any more."""
        self._stopping = stopping
        try:
            listener, self._listener = self._listener or _listen(self._door.address, self.port), None
        except OSError as error:
            raise HostError(f"port {self.port} cannot be listened on ({error.strerror})") from error
        with listener:
            while not stopping.is_set():
                try:
                    connection, peer = listener.accept()
                except (TimeoutError, ConnectionError):
                    continue
                except OSError as error:
                    raise HostError(f"it cannot accept callers ({error.strerror})") from error
                self._admit(connection, _plain(peer[0]))
        self._end()

    def _admit(self, connection: socket.socket, peer: str) -> None:
        """Serve a caller in a thread, if it may call."""
        address = ip_address(peer)
        if not any(address in network for network in self._door.callers):
            self._tell(f"{peer} is not in dicom_callers: its connection was closed")
            connection.close()
            return
        with self._guard:
            count = len(self._open)
            if count < self._door.most + _SPARE:
                work = [connection, peer, count >= self._door.most]
                thread = threading.Thread(target=self._serve, args=work, name="cxr-association", daemon=True)
                self._open[connection] = thread
                thread.start()
                return
        self._tell(f"{peer}: there are far more connections than dicom_associations: closed")
        connection.close()

    def _serve(self, connection: socket.socket, peer: str, is_busy: bool) -> None:
        try:
            self._converse(connection, peer, is_busy)
        except Exception as error:  # noqa: BLE001  the other associations go on
            log.error("%s: association ended by an error: %s", peer, place_of(error))
        finally:
            with self._guard:
                del self._open[connection]

    def _converse(self, connection: socket.socket, peer: str, is_busy: bool) -> None:
        raw, ends = connection, time.monotonic() + self._terms.total_seconds
        try:
            if self._door.tls:
                connection.settimeout(_HANDSHAKE_SECONDS)
                connection = self._door.tls.wrap_socket(connection, server_side=True)
        except OSError as error:
            why = error.reason if isinstance(error, ssl.SSLError) else "the connection broke off"
            self._tell(f"{peer}: no TLS connection: {why}")
            raw.close()
            return
        wire = Wire(connection, ends)
        association = Association(
            self._terms,
            self._arrivals,
            self._reports,
            wire,
            lambda told: self._tell(f"{peer}: {told}"),
        )
        try:
            association.serve(is_busy)
            log.info("%s: association released, %d objects received", peer, association.stored)
        except EndedError as error:
            # A port check opens a connection and closes it; some senders close without a release.
            harmless = isinstance(error, LostError) and association.is_at_rest
            level = logging.INFO if harmless or self._stopping.is_set() else logging.WARNING
            received = f"after {association.stored} objects"
            log.log(level, "%s: association ended %s: %s", peer, received, error)
            wire.close(error.farewell or (pdu.abortion() if self._stopping.is_set() else b""))
        finally:
            wire.close()

    def _tell(self, what: str) -> None:
        """Log what does not change by being tried again: not more than once in ten minutes."""
        now = time.monotonic()
        with self._guard:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            is_news = now - self._told.get(what, -_AGAIN_SECONDS) >= _AGAIN_SECONDS
            if is_news:
                self._told[what] = now
        log.log(logging.WARNING if is_news else logging.INFO, "%s", what)

    def _end(self) -> None:
        """End all associations; objects that were received as a whole are put into the inbox first."""
        with self._guard:
            running = dict(self._open)
        for connection in running:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        until = time.monotonic() + _STOP_SECONDS
        for thread in running.values():
            thread.join(max(until - time.monotonic(), 0))


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=_WAITING)
    listener.settimeout(_TICK_SECONDS)
    return listener


def _plain(address: str) -> str:
    """Return an address without its zone; an IPv4 address as such, not as a part of an IPv6 address."""
    found = ip_address(address.partition("%")[0])
    return str(found.ipv4_mapped or found) if isinstance(found, IPv6Address) else str(found)
