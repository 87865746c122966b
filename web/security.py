"""What keeps other sites, and files with hostile names, from doing anything through the page."""

import re
from urllib.parse import urlsplit

from flask import Flask, Response, abort, current_app, request

_OWN_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@]+)(:[0-9]+)?")
_POLICY = {
    "default-src": "'none'",
    "img-src": "'self' data: blob:",
    "style-src": "'self'",
    "script-src": "'self'",
    "connect-src": "'self'",  # and app.config["CONNECT_ORIGINS"]
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def protect(app: Flask) -> None:
    """Check every request's host, and where a POST comes from; harden every answer."""
    app.before_request(_check_host)
    app.before_request(_check_origin)
    app.after_request(_harden)


def _check_host() -> None:
    """Refuse names that are not ours: another site's name may point at this machine (DNS rebinding)."""
    match = _HOST.fullmatch(request.host.lower())
    if not match or match[1] not in (*_OWN_HOSTS, *current_app.config["ALLOWED_HOSTS"]):
        abort(
            400,
            "This page does not answer to that host name. Open it as http://localhost with its port, or have "
            "the name added to CXR_PAGE_HOSTS.",
        )


def _check_origin() -> None:
    """Refuse what another site sends. Programs that are no browser send neither header, and may."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = site in ("same-origin", "none") if site else origin is None or host_of(origin) == request.host
    if not own:
        abort(403, "This was sent from another site. Upload the files on this page instead.")


def host_of(address: str) -> str | None:
    """The host of an address, with its port; None where it is none."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return None


def _harden(response: Response) -> Response:
    connect = " ".join((_POLICY["connect-src"], *current_app.config["CONNECT_ORIGINS"]))
    policy = "; ".join(f"{name} {value}" for name, value in (_POLICY | {"connect-src": connect}).items())
    response.headers.update(_HEADERS | {"Content-Security-Policy": policy})
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "private, no-cache"
    return response
