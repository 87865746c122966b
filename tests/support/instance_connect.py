"""Play the parts of EC2 Instance Connect that moto lacks: the tunnel endpoint, the call that pushes a key."""

import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from tests.support.machines import ACCESS_KEY, SECRET, Sshd


class Endpoint:
    """Play an EC2 Instance Connect Endpoint: check the signed query, then carry bytes to one port."""

    def __init__(self, target: int, endpoint_id: str) -> None:
        self.target, self.endpoint_id = target, endpoint_id
        self.tunnels: list[ServerConnection] = []
        self.refusals: list[str] = []
        self.status: int | None = None  # with which every tunnel is refused
        self._server: Server = serve(
            self._carry, "127.0.0.1", 0, process_request=self._check, compression=None, max_size=None
        )
        self.port = int(self._server.socket.getsockname()[1])
        self.url = f"ws://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break all tunnels, as a network failure does."""
        for tunnel in self.tunnels:
            with contextlib.suppress(OSError):
                tunnel.socket.shutdown(socket.SHUT_RDWR)
        self.tunnels.clear()

    def stop(self) -> None:
        """Stop the server."""
        self.cut()
        self._server.shutdown()
        self._thread.join(10)

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        problem = signature_problem(request.path, request.headers["Host"])
        query = dict(parse_qsl(urlsplit(request.path).query))
        if query.get("instanceConnectEndpointId") != self.endpoint_id or query.get("remotePort") != "22":
            problem = problem or "another endpoint or port"
        if problem or self.status:
            self.refusals.append(problem or str(self.status))
            return connection.respond(self.status or 403, problem or "")
        return None

    def _carry(self, tunnel: ServerConnection) -> None:
        self.tunnels.append(tunnel)
        try:
            pipe = socket.create_connection(("127.0.0.1", self.target), timeout=10)
        except OSError:
            return  # and so the tunnel closes
        with pipe:
            pipe.settimeout(None)
            threading.Thread(target=self._back, args=(tunnel, pipe), daemon=True).start()
            with contextlib.suppress(ConnectionClosed, OSError):
                for frame in tunnel:
                    pipe.sendall(frame if isinstance(frame, bytes) else frame.encode())

    def _back(self, tunnel: ServerConnection, pipe: socket.socket) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            while data := pipe.recv(65536):
                tunnel.send(data)
        tunnel.close()


def signature_problem(path: str, host: str, now: float | None = None) -> str | None:
    """Return the error in a query signed with Signature Version 4, computed from its documentation.

    docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    address = urlsplit(path)
    query = parse_qsl(address.query, keep_blank_values=True)
    given = dict(query)
    try:
        moment = time.mktime(time.strptime(given["X-Amz-Date"], "%Y%m%dT%H%M%SZ")) - time.timezone
        key_id, day, region, service, _ = given["X-Amz-Credential"].split("/")
    except (KeyError, ValueError):
        return "not signed"
    if not -300 < (now or time.time()) - moment < int(given["X-Amz-Expires"]):
        return "expired"
    if (key_id, service, given["X-Amz-SignedHeaders"]) != (ACCESS_KEY, "ec2-instance-connect", "host"):
        return "signed by or for somebody else"
    rest = sorted((name, value) for name, value in query if name != "X-Amz-Signature")
    canonical_query = urlencode(rest, quote_via=quote, safe="-_.~")
    empty = hashlib.sha256(b"").hexdigest()
    canonical = f"GET\n{address.path}\n{canonical_query}\nhost:{host}\n\nhost\n{empty}"
    scope = f"{day}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{given['X-Amz-Date']}\n{scope}\n{digest}"
    key = f"AWS4{SECRET}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    right = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return None if hmac.compare_digest(right, given.get("X-Amz-Signature", "")) else "wrong signature"


class InstanceConnectApi:
    """Play `SendSSHPublicKey`: the key is valid for new connections for 60 seconds."""

    def __init__(self, sshd: Sshd) -> None:
        self.pushed: list[dict[str, str]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["X-Amz-Target"] == "AWSEC2InstanceConnectService.SendSSHPublicKey"
                api.pushed.append({**request, "at": str(time.time())})
                fresh = [push for push in api.pushed if time.time() - float(push["at"]) < 60]
                sshd.authorized.write_text("".join(push["SSHPublicKey"] + "\n" for push in fresh))
                body = b'{"RequestId": "1", "Success": true}'
                self.send_response(200)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
