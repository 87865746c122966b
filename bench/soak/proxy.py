"""Stand between our programs and moto, and fail as networks and AWS do, when told to."""

import random
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SECONDS = 60.0  # for an answer of moto
_SLOW = (0.1, 2.0)  # seconds
_KINDS = ("slow", "refused", "cut before", "cut after")
_XML = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
)
_JSON = b'{"__type": "InternalServerError", "message": "try again"}'
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_LAUNCH = b"Action=RunInstances"  # moto launches another instance when it is repeated, unlike AWS


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients are killed all the time."""


class Proxy:
    """Pass requests on to `target`; `trouble` is the share of requests that fail, and `failed` counts them.

    A request is delayed, refused, lost before it arrives, or done without its answer ever coming back.
    """

    def __init__(self, target: str, chance: random.Random) -> None:
        self.trouble, self.failed = 0.0, 0
        address, kept, proxy = urlsplit(target).netloc, threading.local(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _SECONDS

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kind = chance.choice(_KINDS) if chance.random() < proxy.trouble else ""
                if _LAUNCH in body and kind == "cut after":
                    kind = "refused"
                proxy.failed += bool(kind)
                if kind == "slow":
                    time.sleep(chance.uniform(*_SLOW))
                elif kind == "refused":
                    is_json = "X-Amz-Target" in self.headers
                    self._answer(500 if is_json else 503, {}, _JSON if is_json else _XML)
                    return
                elif kind == "cut before":
                    self.close_connection = True
                    return
                status, headers, data = self._asked(body)
                if kind == "cut after":
                    self.close_connection = True
                    return
                self._answer(status, headers, data)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

            def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                for is_last in (False, True):
                    connection = getattr(kept, "connection", None)
                    if connection is None or is_last:
                        connection = kept.connection = HTTPConnection(address, timeout=_SECONDS)
                    try:
                        connection.putrequest(self.command, self.path, True, True)
                        for name, value in self.headers.items():
                            if name.lower() not in ("connection", "expect"):
                                connection.putheader(name, value)
                        connection.endheaders(body or None)
                        answer = connection.getresponse()
                        return answer.status, dict(answer.getheaders()), answer.read()
                    except (HTTPException, ConnectionError):
                        connection.close()
                        kept.connection = None
                        if is_last:
                            raise
                raise AssertionError  # the loop has returned, or raised

            def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                with suppress(ConnectionError):
                    self.send_response(status)
                    for name, value in headers.items():
                        if name.lower() not in _HOP:
                            self.send_header(name, value)
                    size = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
                    self.send_header("Content-Length", size)
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(data)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
