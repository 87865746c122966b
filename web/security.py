"""Protection against other sites, and against files with hostile names."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, current_app, request, url_for

_OWN_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@]+)(:[0-9]{1,5})?")
_FOREIGN = "cxr.foreign_host"  # key in a request's WSGI environment
_SMALL_BODY = 1_000_000  # bytes
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


def harden(app: Flask) -> None:
    """Make the app check the host and origin of requests, limit their bodies, and send security headers."""
    app.wsgi_app = _named(app.wsgi_app, app.config)  # type: ignore[method-assign]
    app.before_request(_check_host)
    app.before_request(_check_origin)
    app.before_request(_bound_body)
    app.after_request(_add_headers)


def _named(app: Callable[..., Iterable[bytes]], config: Mapping[str, Any]) -> Callable[..., Iterable[bytes]]:
    """Mark requests for a foreign host name, and replace the name by one of ours.

    Flask cannot answer a request whose host name is missing or too long.
    """

    def look(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match = _HOST.fullmatch(environ.get("HTTP_HOST", "").lower())
        if not match or match[1] not in (*_OWN_HOSTS, *config["ALLOWED_HOSTS"]):
            environ |= {"HTTP_HOST": _OWN_HOSTS[0], _FOREIGN: True}
        return app(environ, start_response)

    return look


def _bound_body() -> None:
    """Allow large bodies for files only: parsed form fields take forty times their size in memory."""
    if request.mimetype != "multipart/form-data":
        request.max_content_length = _SMALL_BODY


def _check_host() -> None:
    """Refuse foreign host names: another site's name may point to this machine (DNS rebinding)."""
    if _FOREIGN in request.environ:
        abort(
            400,
            "This page does not answer to that host name. Open it as http://localhost with its port, or add "
            "the name to CXR_PAGE_HOSTS.",
        )


def _check_origin() -> None:
    """Refuse requests sent by another site; programs other than browsers send neither header, and may."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    own = site in ("same-origin", "none") if site else origin is None or host_of(origin) == request.host
    if not own:
        abort(403, "This request came from another site. Upload the files on this page instead.")


def host_of(address: str) -> str | None:
    """Return the host of an address with its port; None if it is not an address."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return None


def own_page() -> str:
    """Return the page of this site that a form was on."""
    own = request.referrer is not None and host_of(request.referrer) == request.host
    return str(request.referrer) if own else url_for("pages.worklist")


def _add_headers(response: Response) -> Response:
    connect = " ".join((_POLICY["connect-src"], *current_app.config["CONNECT_ORIGINS"]))
    policy = "; ".join(f"{name} {value}" for name, value in (_POLICY | {"connect-src": connect}).items())
    response.headers.update(_HEADERS | {"Content-Security-Policy": policy})
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "private, no-cache"
    return response
