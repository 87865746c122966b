"""Access to the page: users with a password, or users named by a trusted reverse proxy."""

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

# Open to all: the health check, and the style sheets of the page that asks for a password.
_OPEN = ("pages.healthz", "static")
_MAPPED_BITS = 96  # before the IPv4 address inside an IPv4-mapped IPv6 address
_Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Access:
    """Hold where the page listens and who may use it: everybody, if there are neither users nor a header.

    `users` maps names to password hashes. `header` is the header in which one of the `proxies` names the
    user. `hosts` are the page's host names besides this machine's own, without a port.
    """

    address: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()
    users: Mapping[str, str] = field(default_factory=dict)
    header: str | None = None
    proxies: tuple[_Network, ...] = ()


def access_of(settings: Settings, address: str) -> Access:
    """Read the access from the settings; raise UsageError if the page would be open to a whole network."""
    listen = _parsed(address)
    if listen is None:
        raise UsageError(f"--host takes an address, such as 127.0.0.1 or 0.0.0.0, not {address}")
    if settings.users and settings.proxy_header:
        raise UsageError("set CXR_USERS or CXR_PROXY_HEADER, not both: each of them identifies the user")
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
    """Return the URL at which a person on this machine opens a page that listens there."""
    listen = ip_address(address)
    return f"http://{'localhost' if listen.is_unspecified else _in_url(listen)}:{port}"


def restrict(app: Flask, access: Access) -> None:
    """Admit only those who may use the page, and note who they are in `g.user` and `g.address`."""
    ask = _question(access)

    def admit() -> ResponseReturnValue | None:
        g.user, g.address = None, _client(access.proxies)
        return None if ask is None or request.endpoint in _OPEN else ask()

    app.before_request(admit)


def _question(access: Access) -> Callable[[], ResponseReturnValue | None] | None:
    """Return the function that identifies the user: it sets `g.user`, or refuses."""
    if access.header:
        return lambda: _believe(access.header or "", access.proxies)
    if not access.users:
        return None
    auth, login = HTTPBasicAuth(realm="CXR Inbox"), Login(access.users)
    auth.error_handler(lambda status: error_answer(status))

    def known(name: str, password: str) -> str | None:
        given = bool(name or password)  # both are empty before the browser has asked the person
        return name if given and login.check(name, password, g.address) else None

    def enter() -> None:
        g.user = auth.current_user()

    auth.verify_password(known)
    ask: Callable[[], ResponseReturnValue | None] = auth.login_required(enter)
    return ask


def _believe(header: str, proxies: tuple[_Network, ...]) -> None:
    if not _is_in(request.remote_addr, proxies):
        abort(403, "This page can only be reached through its reverse proxy. Open it at the proxy's address.")
    g.user = request.headers.get(header, "").strip()
    if not g.user:
        abort(401, "The reverse proxy did not say who you are. Log in there and try again.")


def _client(proxies: tuple[_Network, ...]) -> str:
    """Return the visitor's address: the connection's, or what a trusted proxy added to X-Forwarded-For."""
    peer = str(_parsed(request.remote_addr or "") or "")
    told = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    return str(_parsed(told) or peer) if _is_in(peer, proxies) else peer


def _is_in(address: str | None, networks: tuple[_Network, ...]) -> bool:
    parsed = _parsed(address or "")
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, IPv4-mapped ones (`::ffff:127.0.0.1`) as IPv4; return None if it is not one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return (parsed.ipv4_mapped if parsed.version == 6 else None) or parsed


def _network(text: str) -> _Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(f"CXR_PROXY_ADDRESSES: {text} is not an address such as 127.0.0.1") from error
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return ip_network((mapped, network.prefixlen - _MAPPED_BITS))


def _in_url(address: IPv4Address | IPv6Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)
