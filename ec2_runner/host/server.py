"""Serve the worker's HTTP interface on the loopback of its machine, reached through SSH.

`POST /jobs` takes `{"release": 2, "jobs": ["inbox/a.jpeg", ...]}` and streams one line of JSON for each job,
in the order in which they finish. 409 means another release, 503 stopping, 401 a caller who may not ask
(`ec2_runner.host.caller`). `GET /healthz` and `GET /metrics` answer every program on the machine.
"""

import json
import time
from collections.abc import Generator, Iterator
from itertools import chain
from typing import Annotated

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from pydantic import AfterValidator, BaseModel, Field, InstanceOf, ValidationError

from ec2_runner.host.caller import is_program_here, may_ask
from pipeline.names import INBOX
from pipeline.records import Job, Outcome
from pipeline.running.service import JobsRefused, Service

_LIMIT = 4 << 20  # bytes of a request: 1,000 keys of the greatest length
_MOST_JOBS = 1000
_MOST_AHEAD = 1000  # releases: a number further above ours is a mistake, not a reason to end
_MOMENT_SECONDS = 0.05
_CODES = {"release": 409, "stopping": 503}


def _of_inbox(key: str) -> str:
    if not key.startswith(INBOX) or key == INBOX:
        raise ValueError("a job is a key under inbox/")
    return key


Key = Annotated[InstanceOf[str], AfterValidator(_of_inbox)]  # also a name that is not Unicode


class _Asked(BaseModel, strict=True):
    """Validate the body of a request for jobs."""

    release: int = Field(ge=0)
    jobs: list[Key] = Field(max_length=_MOST_JOBS)


def create_app(service: Service, token: str | None = None) -> Flask:
    """Build the WSGI application of a worker; `token` is the secret that its callers have to know.

    Without a token, they have to be processes of the worker's own user.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _LIMIT

    @app.before_request
    def check() -> ResponseReturnValue | None:
        if not is_program_here(request):
            return _refused("caller", "the worker only answers programs on its own machine", 403)
        return None

    @app.post("/jobs")
    def jobs() -> ResponseReturnValue:
        if not may_ask(request, token):
            return _refused("caller", "set CXR_WORKER_TOKEN to the same secret here and for the worker", 401)
        try:
            asked = _Asked.model_validate(_json(request.get_data()))
        except ValidationError as error:
            return _refused("body", _problem(error), 400)
        if asked.release > service.release.number + _MOST_AHEAD:
            return _refused("body", "`release` is far above that of this worker", 400)
        outcomes = service.run([Job(key) for key in asked.jobs], asked.release)
        try:
            first = next(outcomes, None)  # a refusal comes before it
        except JobsRefused as refused:
            return _refused(refused.reason, str(refused), _CODES[refused.reason])
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


def _json(body: bytes) -> object:
    """Return the parsed body; None if it is not JSON. Pydantic's parser rejects names that are not UTF-8."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _refused(reason: str, message: str, code: int) -> ResponseReturnValue:
    return {"reason": reason, "message": message}, code


def _problem(error: ValidationError) -> str:
    """Say what is wrong with a body, without quoting it."""
    names = [name for name in error.errors()[0]["loc"] if isinstance(name, str)]
    what = f"`{names[0]}` is wrong" if names else "it is not a JSON object"
    return f'{what}: send {{"release": NUMBER, "jobs": ["inbox/NAME", ...]}}, at most {_MOST_JOBS} jobs'


def _lines(first: Outcome | None, rest: Generator[Outcome]) -> Iterator[bytes]:
    """Yield the outcomes as lines; those of one moment go out together.

    Through SSH, a packet costs more than the line in it. Lines lost in a crash belong to images that are
    judged already, and are found so.
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
        rest.close()  # the client is gone: drop jobs that have not begun


def _line(outcome: Outcome) -> bytes:
    return json.dumps(vars(outcome)).encode() + b"\n"  # ASCII, which also holds names that are not Unicode


def _exposition(service: Service) -> str:
    """Return the metrics in Prometheus's text format: prometheus.io/docs/instrumenting/exposition_formats/"""
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
