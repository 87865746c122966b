"""Send notices to a program: a signed POST, as Standard Webhooks has it.

github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md
"""

import base64
import hmac
import socket
import ssl
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from pipeline.errors import UsageError
from pipeline.notices.notice import NoticeWriter
from pipeline.outgoing.delivery import Delivery, DestinationDown, Refused, TryAgain
from pipeline.settings.tables import NotifyTo
from pipeline.verdict import VERSION

_STEP_SECONDS, _TOTAL_SECONDS = 10.0, 30.0
_MOST_BODY = 20_000  # bytes; ours have about 1,000
_SUCCESS, _REDIRECTS, _GONE, _DEFECTS = range(200, 300), range(300, 400), 410, 500
_DOWN = (401, 403, 404, 408, 429)


class Webhook:
    """Send to one address; a destination of the queue."""

    def __init__(self, table: NotifyTo, writer: NoticeWriter) -> None:
        self.name, self._writer = table.name, writer
        self._parts, self._key = table.parts, table.signing_key
        self._tls = _tls_of(table) if self._parts.scheme == "https" else None

    def deliver(self, delivery: Delivery) -> None:
        """Send the notice of a verdict; see `pipeline.outgoing.delivery.Destination`."""
        notice = self._writer.write(delivery)
        body, sent_at = notice.to_json(), int(time.time())
        if len(body) > _MOST_BODY:
            raise Refused(f"the notice has {len(body)} bytes, more than {_MOST_BODY}")
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"cxr-inbox/{VERSION}",
            "webhook-id": notice.data.id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": signature_of(self._key, notice.data.id, sent_at, body),
        }
        try:
            status = self._post(headers, body)
        except ssl.SSLCertVerificationError:
            raise DestinationDown("its certificate is not trusted") from None
        except TimeoutError:
            raise DestinationDown("it takes too long to answer") from None
        except (OSError, UnicodeError):  # the second is of a name that no DNS could hold
            raise DestinationDown("it does not answer") from None
        except HTTPException:
            raise DestinationDown("it does not answer as an HTTP server does") from None
        _check(status)

    def _post(self, headers: dict[str, str], body: bytes) -> int:
        """Return the status of the answer; the rest of the answer is not read, and no redirect followed."""
        parts = self._parts
        host, kind = parts.hostname or "", HTTPSConnection if self._tls else HTTPConnection
        connection = kind(host, parts.port)
        ends = time.monotonic() + _TOTAL_SECONDS
        sock = socket.create_connection((host, connection.port), _STEP_SECONDS)
        if self._tls:
            sock = self._tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        cut = threading.Timer(_TOTAL_SECONDS, _cut_off, [sock])  # a byte now and then would never time out
        cut.daemon = True
        cut.start()
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            connection.sock = sock
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", target, body, headers)
            status = connection.getresponse().status
        except (OSError, HTTPException) as error:
            if time.monotonic() >= ends:
                raise TimeoutError from error
            raise
        finally:
            cut.cancel()
            connection.close()
            sock.close()
        if time.monotonic() >= ends:  # what was read is only the beginning
            raise TimeoutError
        return status


def signature_of(key: bytes, notice_id: str, sent_at: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: HMAC-SHA256 over id, time and body."""
    signed = f"{notice_id}.{sent_at}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


def _check(status: int) -> None:
    if status in _SUCCESS:
        return
    if status == _GONE:
        raise Refused("it says that it takes no notices any more (HTTP 410)")
    if status in _REDIRECTS:
        raise DestinationDown(f"it redirects to another address (HTTP {status}): name that one")
    if status in _DOWN or status >= _DEFECTS:
        raise DestinationDown(f"it cannot take anything now (HTTP {status})")
    raise TryAgain(f"it refused the notice (HTTP {status})")


def _cut_off(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # that of TLS would wait for the other side


def _tls_of(table: NotifyTo) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=table.ca)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the file ca of [[notify]] {table.name} cannot be used: {why}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
