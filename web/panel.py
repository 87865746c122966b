"""The panel of the host and its queue: a part of the worklist, which the script keeps up to date."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue

from pipeline.ports import Monitor
from pipeline.records import HostState

HOST_STATES: dict[HostState, str] = {
    "off": "Off",
    "starting": "Starting",
    "ready": "Ready",
    "busy": "Busy",
    "stopping": "Stopping",
    "unknown": "Unknown",
}


def blueprint(
    monitor: Monitor | None, card: Mapping[str, Any] | None, problems: Callable[[], list[str]]
) -> Blueprint:
    """The panel of this host, if there is one to tell of, under what is wrong with this program.

    The host's network links to its card where that is the one at hand.
    """
    host = Blueprint("host", __name__)
    shown = {
        "operations": monitor.look if monitor else None,
        "problems": problems,
        "HOST_STATES": HOST_STATES,
        "card_of": card["sha256"] if card else None,
    }
    host.app_context_processor(lambda: shown)

    @host.get("/host")
    def panel() -> ResponseReturnValue:
        """The panel alone; its ETag changes with what it says."""
        response = Response(render_template("host.html"))
        response.add_etag()
        return response.make_conditional(request)

    return host
