"""The HTTP server of page and worker, under more connections than it can hold."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest
from flask import Flask
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import BaseWSGIServer

from pipeline.running import serving
from tests.support.machines import wait_for


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BaseWSGIServer]:
    """Provide a server for few connections, which can be filled in milliseconds."""
    monkeypatch.setattr(serving, "_MOST_CONNECTIONS", 40)
    app = Flask(__name__)
    app.add_url_rule("/", "small", lambda: "here")
    app.add_url_rule("/large", "large", lambda: b"x" * 30_000_000)
    channels: dict[int, wasyncore.dispatcher] = {}
    server = serving.make_server(app, "127.0.0.1", 0, 2, channels)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server
    wait_for(lambda: not server.active_channels, what="the end of every connection")
    server.trigger.pull_trigger(lambda: wasyncore.close_all(channels, ignore_all=True))
    thread.join(10)
    server.task_dispatcher.shutdown(timeout=5)


def seconds_for_an_answer(server: BaseWSGIServer) -> float:
    began = time.monotonic()
    connection = HTTPConnection("127.0.0.1", server.effective_port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"here"
    connection.close()
    return time.monotonic() - began


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n1"], ids=range(3)
)
def test_connections_that_wait_for_their_client_do_not_shut_it(server: BaseWSGIServer, sent: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            address = ("127.0.0.1", server.effective_port)
            connection = stack.enter_context(socket.create_connection(address, timeout=10))
            connection.sendall(sent)
        assert max(seconds_for_an_answer(server) for _ in range(5)) < 1


def test_a_client_that_fetches_no_answer_holds_no_thread(server: BaseWSGIServer) -> None:
    with ExitStack() as stack:
        for _ in range(6):  # more than the server has threads
            address = ("127.0.0.1", server.effective_port)
            connection = stack.enter_context(socket.create_connection(address, timeout=10))
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        assert seconds_for_an_answer(server) < 3


def test_a_body_over_the_limit_of_its_path_is_refused_unread() -> None:
    parser = serving._channel({"/large/": 100}).parser_class

    def taken(path: str, size: int) -> bool:
        request = parser(Adjustments(max_request_body_size=10))
        request.received(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        return request.error is None

    assert [taken("/", 9), taken("/", 10), taken("/large/x", 99), taken("/large/x", 100)] == [1, 0, 1, 0]


def test_of_a_crowd_the_oldest_goes_and_nobody_else() -> None:
    class Channel:
        def __init__(self, address: str, created: float, requests: int = 0) -> None:
            self.addr, self.creation_time, self.requests = (address, 1), created, [None] * requests
            self.will_close = False

    limit = serving._MOST_CONNECTIONS - serving._SPARE
    honest = [Channel("10.0.0.1", 0) for _ in range(6)]
    busy = [Channel("10.0.0.2", 0, requests=1) for _ in range(100)]
    crowd = [Channel("10.0.0.2", created) for created in range(1, limit - 100)]
    everyone = [*honest, *busy, *crowd]
    excess = len(everyone) - limit
    assert excess > 0
    serving._make_room(everyone)  # type: ignore[arg-type]
    assert [channel.creation_time for channel in everyone if channel.will_close] == list(range(1, excess + 1))
    few = [Channel("10.0.0.2", 0) for _ in range(limit)]
    serving._make_room(few)  # type: ignore[arg-type]
    assert not any(channel.will_close for channel in few)
