"""The worker's face: HTTP on the loopback of its machine, reached through SSH alone.

`POST /jobs` takes `{"release": 2, "jobs": ["inbox/a.jpeg", ...]}` and streams one line of JSON for each job,
as they finish. 409 says: of another release; 503: stopping. `GET /healthz`, `GET /metrics`.
"""

import json
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from itertools import chain

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue

from ec2_runner.service import JobsRefused, Service
from pipeline.ports import Job, Outcome

_LIMIT = 4 << 20  # bytes of a request: 1,000 keys of the longest kind
_MOMENT_SECONDS = 0.05
_CODES = {"release": 409, "stopping": 503}


def create_app(service: Service) -> Flask:
    """The WSGI application of a worker."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _LIMIT

    @app.post("/jobs")
    def jobs() -> ResponseReturnValue:
        asked = request.get_json()
        outcomes = service.run([Job(key) for key in asked["jobs"]], asked["release"])
        try:
            first = next(outcomes, None)  # a refusal comes before it
        except JobsRefused as refused:
            return {"reason": refused.reason, "message": str(refused)}, _CODES[refused.reason]
        return Response(_lines(first, outcomes), mimetype="application/x-ndjson")

    @app.get("/healthz")
    def healthz() -> ResponseReturnValue:
        status = service.status()
        answer = {"state": status.state, "release": status.release.number, "model": status.model.model_dump()}
        return answer, 503 if status.state == "stopping" else 200

    @app.get("/metrics")
    def metrics() -> ResponseReturnValue:
        return Response(_exposition(service), mimetype="text/plain; version=0.0.4")

    return app


def _lines(first: Outcome | None, rest: Generator[Outcome]) -> Iterator[bytes]:
    """Lines that follow one another within a moment go out together: through SSH, a packet costs more than
    the line in it. What a crash takes along with them is judged already, and found so.
    """
    ready, due = b"", 0.0
    try:
        for outcome in chain([first] if first else [], rest):
            ready += _line(outcome)
            if time.monotonic() >= due:
                yield ready
                ready, due = b"", time.monotonic() + _MOMENT_SECONDS
        yield ready
    finally:
        rest.close()  # the client has gone: jobs not begun are dropped


def _line(outcome: Outcome) -> bytes:
    return json.dumps(asdict(outcome)).encode() + b"\n"  # ASCII: also names that are no Unicode


def _exposition(service: Service) -> str:
    """Prometheus's text format: prometheus.io/docs/instrumenting/exposition_formats/"""
    status = service.status()
    lines = [
        "# HELP cxr_jobs_total Jobs answered since the start, by result.",
        "# TYPE cxr_jobs_total counter",
        *(f'cxr_jobs_total{{result="{result}"}} {count}' for result, count in sorted(status.results.items())),
        "# HELP cxr_jobs_active Jobs taken and not answered yet.",
        "# TYPE cxr_jobs_active gauge",
        f"cxr_jobs_active {status.active}",
        "# HELP cxr_release_number The release that runs.",
        "# TYPE cxr_release_number gauge",
        f"cxr_release_number {status.release.number}",
        "# HELP cxr_start_time_seconds When it started, in seconds since 1970.",
        "# TYPE cxr_start_time_seconds gauge",
        f"cxr_start_time_seconds {status.started_at.timestamp():.0f}",
    ]
    return "\n".join(lines) + "\n"
