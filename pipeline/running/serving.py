"""Serve HTTP by waitress, for the page and the worker; no number of idle connections blocks it."""

from collections import Counter
from collections.abc import Mapping
from copy import copy
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from waitress import create_server
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer

_MOST_CONNECTIONS = 400  # below the usual limit of 1,024 open files of a process
_SPARE = 20  # connections kept free for new clients
_IDLE_SECONDS = 60
_UNREAD_BYTES = 1 << 30  # limit of an unread answer, kept on disk so that it holds no thread


def make_server(
    app: Any,
    address: str,
    port: int,
    threads: int,
    channels: dict[int, Any] | None = None,
    large: Mapping[str, int] = MappingProxyType({}),
    request_seconds: float = 3600,
    **options: Any,
) -> BaseWSGIServer:
    """Return a server that listens; raise OSError if it cannot. `channels` is filled with its connections.

    A request must come as a whole within `request_seconds`, and without long pauses. `large` holds the limits
    of bodies for paths that begin so, instead of the general one.
    """
    server: BaseWSGIServer = create_server(
        app,
        channels,
        host=address,
        port=port,
        threads=threads,
        ident=None,
        connection_limit=_MOST_CONNECTIONS,
        channel_timeout=_IDLE_SECONDS,
        cleanup_interval=0,  # check the connections whenever one of them is active
        asyncore_use_poll=True,
        outbuf_high_watermark=_UNREAD_BYTES,
        **options,
    )
    server.channel_class = _channel(large)
    close_idle = server.maintenance
    begun = WeakKeyDictionary[HTTPRequestParser, float]()  # when a request that still comes was first seen

    def look_after(now: float) -> None:
        close_idle(now)
        for channel in server.active_channels.values():
            if channel.request and now - begun.setdefault(channel.request, now) > request_seconds:
                channel.will_close = True
        _make_room(list(server.active_channels.values()))

    server.maintenance = look_after
    return server


def _channel(large: Mapping[str, int]) -> type[HTTPChannel]:
    """Return the class of the server's connections, which refuses a body over its path's limit unread."""

    class Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
        def parse_header(self, header_plus: bytes) -> None:
            super().parse_header(header_plus)
            for path, most in large.items():
                if self.path.startswith(path):
                    self.adj: Any = copy(self.adj)
                    self.adj.max_request_body_size = most

    class Channel(HTTPChannel):  # type: ignore[misc]
        parser_class = Parser

    return Channel


def _make_room(channels: list[HTTPChannel]) -> None:
    """Close connections that wait for their client when there are too many.

    The first to go are those of the address that has the most, the oldest first. So a client gains nothing by
    sending a byte now and then to keep many open.
    """
    excess = len(channels) - (_MOST_CONNECTIONS - _SPARE)
    if excess <= 0:
        return
    crowd = Counter(channel.addr[0] for channel in channels)
    waiting = [channel for channel in channels if not channel.requests and not channel.will_close]
    waiting.sort(key=lambda channel: (-crowd[channel.addr[0]], channel.creation_time))
    for channel in waiting[:excess]:
        channel.will_close = True
