"""Open the tunnel of an EC2 Instance Connect Endpoint to port 22 of a host without a public address.

The tunnel is a WebSocket whose binary frames carry a TCP connection.

docs.aws.amazon.com/AWSEC2/latest/UserGuide/connect-with-ec2-instance-connect-endpoint.html
"""

from contextlib import ExitStack
from urllib.parse import urlencode

from botocore.credentials import Credentials
from botocore.hooks import HierarchicalEmitter
from botocore.model import ServiceId
from botocore.signers import RequestSigner
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

from ec2_runner.reach.worker_client import remaining
from pipeline.errors import HostError

_SERVICE = "ec2-instance-connect"
_SIGNED_SECONDS = 60
# An endpoint carries 20 tunnels, and one left behind by a function counts for so long. AWS allows 3600.
# docs.aws.amazon.com/AWSEC2/latest/UserGuide/eice-quotas.html
_TUNNEL_SECONDS = 900
_CLOSE_SECONDS = 2
_DENIED = (401, 403)


class EndpointRefused(HostError):
    """Report that the endpoint itself opened no tunnel, which says nothing about the host.

    A host that does not answer looks different: the endpoint opens the tunnel, and then closes it.
    """

    def __init__(self, reason: str, is_fault: bool = False) -> None:
        super().__init__(f"the Instance Connect Endpoint {reason}")
        self.is_fault = is_fault


class Tunnel:
    """Present a tunnel as the socket that Paramiko expects."""

    def __init__(self, url: str, deadline: float) -> None:
        """Connect to a signed address; raise EndpointRefused when the endpoint refuses or does not answer."""
        self._open = ExitStack()
        try:
            websocket = open_websocket(
                url,
                open_timeout=remaining(deadline),
                close_timeout=_CLOSE_SECONDS,
                compression=None,  # SSH traffic does not compress
                ping_interval=None,  # AWS's own client sends none, and SSH has its own
                proxy=None,
            )
            self._websocket: ClientConnection = self._open.enter_context(websocket)
        except InvalidStatus as error:
            status = error.response.status_code
            raise EndpointRefused(f"refused a tunnel (status {status})", status in _DENIED) from error
        except (OSError, WebSocketException) as error:
            raise EndpointRefused(f"does not answer ({type(error).__name__})") from error
        self._timeout: float | None = None
        self._closed = False  # Paramiko reads this attribute of Python's sockets
        self._rest = b""

    def settimeout(self, value: float | None) -> None:
        """Set the timeout of the next `recv`, in seconds."""
        self._timeout = value

    def send(self, data: bytes) -> int:
        """Send all of the data, as one frame."""
        try:
            self._websocket.send(data)
        except ConnectionClosed as error:
            raise BrokenPipeError("the tunnel is closed") from error
        return len(data)

    def recv(self, size: int) -> bytes:
        """Return at most `size` bytes, none when the other end closed; raise TimeoutError like a socket."""
        if not self._rest:
            try:
                frame = self._websocket.recv(self._timeout)
            except ConnectionClosed:
                return b""
            self._rest = frame if isinstance(frame, bytes) else frame.encode()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        """End the tunnel."""
        self._closed = True
        self._open.close()


def signed_url(
    base: str, endpoint_id: str, address: str, region: str, credentials: Credentials, port: int = 22
) -> str:
    """Return the address that opens a tunnel to a private address, valid for a minute: SigV4 in the query.

    `base` is the endpoint's address, `wss://<dns name>`.
    """
    query = {
        "instanceConnectEndpointId": endpoint_id,
        "maxTunnelDuration": _TUNNEL_SECONDS,
        "privateIpAddress": address,
        "remotePort": port,
    }
    scheme, _, host = base.partition("://")
    events = HierarchicalEmitter()  # the signer holds only a weak reference to it
    signer = RequestSigner(ServiceId("EC2 Instance Connect"), region, _SERVICE, "v4", credentials, events)
    signed = signer.generate_presigned_url(
        {
            "method": "GET",
            "url": f"https://{host}/openTunnel?{urlencode(query)}",
            "body": {},
            "headers": {},
            "context": {},
        },
        operation_name="OpenTunnel",
        expires_in=_SIGNED_SECONDS,
    )
    return scheme + str(signed).removeprefix("https")
