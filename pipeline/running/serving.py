"""Serve HTTP by waitress, for the page and the worker; no number of idle connections blocks it."""

from collections import Counter
from typing import Any

from waitress import create_server
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer

_MOST_CONNECTIONS = 400  # below the usual limit of 1,024 open files of a process
_SPARE = 20  # connections kept free for new clients
_IDLE_SECONDS = 60
_UNREAD_BYTES = 1 << 30  # limit of an unread answer, kept on disk so that it holds no thread


def make_server(
    app: Any, address: str, port: int, threads: int, channels: dict[int, Any] | None = None, **options: Any
) -> BaseWSGIServer:
    """Return a server that listens; raise OSError if it cannot. `channels` is filled with its connections."""
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
    close_idle = server.maintenance

    def look_after(now: float) -> None:
        close_idle(now)
        _make_room(list(server.active_channels.values()))

    server.maintenance = look_after
    return server


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
