"""Run an HTTP server in a thread of its own, by waitress, that can be shut down cleanly."""

import threading
import time

from flask import Flask
from waitress import wasyncore

from pipeline.errors import UsageError
from pipeline.running.serving import make_server

_BATCHES = 16  # batches at work at a time
_FLUSH_SECONDS = 5.0


class HttpServer:
    """Serve an application on the loopback from now on; raise UsageError when the port is taken."""

    def __init__(self, app: Flask, port: int) -> None:
        self._channels: dict[int, wasyncore.dispatcher] = {}
        try:
            self._server = make_server(app, "127.0.0.1", port, _BATCHES, self._channels)
        except OSError as error:
            reason = f"port {port} cannot be used ({error.strerror}); set CXR_WORKER_PORT to a free one"
            raise UsageError(reason) from error
        self.port = int(self._server.effective_port)
        self._thread = threading.Thread(target=self._server.run, name="cxr-http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send the answers that are ready, then close everything; may be called again."""
        if not self._thread.is_alive():
            return
        until = time.monotonic() + _FLUSH_SECONDS
        while self._is_sending() and time.monotonic() < until:
            time.sleep(0.01)
        # In the server's own thread: another thread would close channels that the loop is using.
        self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._channels, ignore_all=True))
        self._thread.join(_FLUSH_SECONDS)
        self._server.task_dispatcher.shutdown(timeout=_FLUSH_SECONDS)

    def _is_sending(self) -> bool:
        channels = list(self._server.active_channels.values())
        return any(channel.total_outbufs_len or channel.requests for channel in channels)
