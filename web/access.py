"""Who may use the page: those who know a password, or whom a trusted reverse proxy names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from flask import Flask, abort, g, request
from flask.typing import ResponseReturnValue
from flask_httpauth import HTTPBasicAuth

from pipeline.errors import UsageError
from pipeline.settings import Settings
from web.errors import error_answer
from web.login import Login
from web.users import read_users

# Open to all: whether the page lives, and the style of the answer that asks for a password.
_OPEN = ("pages.healthz", "static")
_MAPPED_BITS = 96  # of an IPv6 address that carries one of IPv4, before it
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Access:
    """Where the page listens, and whom it answers: everybody, if there are neither users nor a header.

    `users` are names with the hashes of their passwords; `header` is where one of the `proxies` names the
    user; `hosts` are names of the page besides this machine's own, without a port.
    """

    address: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    users: Mapping[str, str] = field(default_factory=dict)
    header: str | None = None
    proxies: tuple[Network, ...] = ()


def access_of(settings: Settings, address: str) -> Access:
    """What the settings say of a page at this address; UsageError where it would be open to a network."""
    listen = _parsed(address)
    if listen is None:
        raise UsageError(f"--host takes an address, such as 127.0.0.1 or 0.0.0.0, not {address}")
    if settings.users and settings.proxy_header:
        raise UsageError("set CXR_USERS or CXR_PROXY_HEADER, not both: either asks who the user is")
    if not (listen.is_loopback or settings.users or settings.proxy_header):
        raise UsageError(
            f"at {address} anyone on the network could use the page: write a password into a file with "
            "`cxr password FILE`, and set CXR_USERS=FILE"
        )
    return Access(
        str(listen),
        (_in_url(listen), *(name.lower() for name in settings.page_hosts)),
        read_users(settings.users) if settings.users else {},
        settings.proxy_header,
        tuple(_network(one) for one in settings.proxy_addresses),
    )


def url_of(address: str, port: int) -> str:
    """Where a person on this machine opens a page that listens there."""
    listen = ip_address(address)
    return f"http://{'localhost' if listen.is_unspecified else _in_url(listen)}:{port}"


def protect(app: Flask, access: Access) -> None:
    """Let only those in who may use the page; `g.user` and `g.address` say who they are."""
    ask = _question(access)

    def admit() -> ResponseReturnValue | None:
        g.user, g.address = None, _client(access.proxies)
        return None if ask is None or request.endpoint in _OPEN else ask()

    app.before_request(admit)


def _question(access: Access) -> Callable[[], ResponseReturnValue | None] | None:
    """What finds out who the user is, and sets `g.user` or refuses."""
    if access.header:
        return lambda: _believe(access.header or "", access.proxies)
    if not access.users:
        return None
    auth, login = HTTPBasicAuth(realm="CXR Inbox"), Login(access.users)
    auth.error_handler(lambda status: error_answer(status))

    def known(name: str, password: str) -> str | None:
        given = bool(name or password)  # empty when nobody has asked the person yet
        return name if given and login.check(name, password, g.address) else None

    def enter() -> None:
        g.user = auth.current_user()

    auth.verify_password(known)
    ask: Callable[[], ResponseReturnValue | None] = auth.login_required(enter)
    return ask


def _believe(header: str, proxies: tuple[Network, ...]) -> None:
    if not _is_in(request.remote_addr, proxies):
        abort(403, "This page answers its reverse proxy alone. Open it at the proxy's address.")
    g.user = request.headers.get(header, "").strip()
    if not g.user:
        abort(401, "The reverse proxy does not say who you are. Log in there, and try again.")


def _client(proxies: tuple[Network, ...]) -> str:
    """The visitor's address: that of the connection, or what a trusted proxy added to X-Forwarded-For."""
    peer = str(_parsed(request.remote_addr or "") or "")
    told = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return str(_parsed(told) or peer) if _is_in(peer, proxies) else peer


def _is_in(address: str | None, networks: tuple[Network, ...]) -> bool:
    parsed = _parsed(address or "")
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """The address, as IPv4 where IPv6 only carries it (`::ffff:127.0.0.1`); None when it is none."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return (parsed.ipv4_mapped if parsed.version == 6 else None) or parsed


def _network(text: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(f"CXR_PROXY_ADDRESSES: {text} is no address, such as 127.0.0.1") from error
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return ip_network((mapped, network.prefixlen - _MAPPED_BITS))


def _in_url(address: IPv4Address | IPv6Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)
