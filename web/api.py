"""The interface for programs: the worklist as JSON and CSV, one verdict, figures for Prometheus.

`/api/openapi.json` describes it.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, get_args

from flask import Blueprint, Response, abort, jsonify, stream_with_context, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel

from pipeline.errors import StoreError
from pipeline.judge import read_verdict
from pipeline.names import INBOX
from pipeline.outgoing.lane import Outgoing
from pipeline.ports import Monitor, Store
from pipeline.records import HostState, Operations, Row
from pipeline.statistics.reader import DriftReport, Statistics
from pipeline.verdict import doubt_of
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import Worklist
from web.audit import note
from web.openapi import document
from web.query import asked, parameters
from web.schemas import Figures, ItemWithVerdict, WorklistItem, WorklistItems

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # owasp.org/www-community/attacks/CSV_Injection


def api_blueprint(
    store: Store,
    index: SqliteIndex,
    statistics: Statistics,
    monitor: Monitor | None = None,
    outgoing: Outgoing | None = None,
) -> Blueprint:
    """Return the interface for programs over a store, its worklist, and what monitor and queue report."""
    api = Blueprint("api", __name__)
    listed = Worklist(index)

    @api.get("/api/verdicts")
    def verdicts() -> ResponseReturnValue:
        query = asked()
        page = listed.page(query.view, query.limit, query.after, query.before)
        note("list", count=len(page.rows))
        before, after = (str(place) if place else None for place in (page.newer, page.older))
        answer = _json(WorklistItems(items=[_item(row) for row in page.rows], before=before, after=after))
        if after:
            again = {**parameters(query.view), "limit": query.limit, "after": after}
            answer.headers["Link"] = f'<{url_for("api.verdicts", **again)}>; rel="next"'
        return answer

    @api.get("/api/verdicts.csv")
    def export() -> ResponseReturnValue:
        rows = listed.rows(asked().view)
        first = list(islice(rows, 1))  # read now: after the answer has begun, an error could not be reported
        answer = Response(stream_with_context(csv_lines(chain(first, rows))), mimetype="text/csv")
        answer.headers["Content-Disposition"] = 'attachment; filename="verdicts.csv"'
        return answer

    @api.get("/api/verdicts/<name:name>")
    def verdict(name: str) -> ResponseReturnValue:
        row = index.get(INBOX + name)
        if row is None:
            abort(404, "No X-ray with this name is in the worklist.")
        note("view", row.key)
        found = read_verdict(store, row.verdict_key).verdict if row.verdict_key else None
        return _json(ItemWithVerdict(item=_item(row), verdict=found))

    @api.get("/api/status")
    def status() -> ResponseReturnValue:
        counts, operations = listed.counts(), monitor.look() if monitor else None
        return _json(
            Figures(
                total=sum(counts.values()),
                states=counts,
                reviews=listed.review_counts(),
                operations=operations,
            )
        )

    @api.get("/metrics")
    def metrics() -> ResponseReturnValue:
        lines = [f'cxr_xrays{{state="{state}"}} {count}' for state, count in listed.counts().items()]
        lines[:0] = ["# HELP cxr_xrays X-rays in the worklist, by state.", "# TYPE cxr_xrays gauge"]
        lines += _exposition(monitor.look()) if monitor else []
        with suppress(StoreError):  # the other lines are known while the queue cannot be read
            lines += list(_deliveries(outgoing)) if outgoing else []
        drift = statistics.drift(datetime.now(UTC).date())
        lines += _drift(drift) if drift else []
        return Response("\n".join(lines) + "\n", mimetype="text/plain; version=0.0.4")

    @api.get("/api/openapi.json")
    def openapi() -> ResponseReturnValue:
        return jsonify(document())

    return api


def _json(model: BaseModel) -> Response:
    return Response(model.model_dump_json(by_alias=True), mimetype="application/json")


def _exposition(operations: Operations) -> Iterator[str]:
    """Yield the lines in Prometheus's text format: prometheus.io/docs/instrumenting/exposition_formats/"""
    host, queue = operations.host, operations.queue
    yield "# HELP cxr_host_state 1 for the current state of the inference host."
    yield "# TYPE cxr_host_state gauge"
    yield from (
        f'cxr_host_state{{state="{state}"}} {int(host.state == state)}' for state in get_args(HostState)
    )
    waited = (operations.at - queue.oldest).total_seconds() if queue.oldest else 0
    for name, what, value in (
        ("cxr_queue_jobs", "Jobs waiting or in progress.", queue.depth),
        ("cxr_queue_oldest_seconds", "How long the oldest of them has waited, in seconds.", waited),
        ("cxr_jobs_a_minute", "Jobs finished by the host in the last minute.", host.jobs_a_minute),
    ):
        if value is not None:
            yield from (f"# HELP {name} {what}", f"# TYPE {name} gauge", f"{name} {value:.0f}")


def _deliveries(outgoing: Outgoing) -> Iterator[str]:
    yield "# HELP cxr_outgoing Results to be sent, by destination and state."
    yield "# TYPE cxr_outgoing gauge"
    for name, counts in outgoing.counts().items():
        for state, count in counts.items():
            yield f'cxr_outgoing{{destination="{name}",state="{state}"}} {count}'


def _drift(report: DriftReport) -> Iterator[str]:
    yield "# HELP cxr_drift_psi Population stability index of a property, against the network's reference."
    yield "# TYPE cxr_drift_psi gauge"
    for one in (*report.short, *report.long):
        if one.psi is not None:
            yield f'cxr_drift_psi{{property="{one.name}",days="{one.days}"}} {one.psi}'
    yield "# HELP cxr_drift_alarm 1 while the X-rays are unlike those that the network was checked on."
    yield "# TYPE cxr_drift_alarm gauge"
    yield f"cxr_drift_alarm {int(report.since is not None)}"


def _item(row: Row) -> WorklistItem:
    name = row.key.removeprefix(INBOX)
    preview = row.preview_key and row.etag and url_for("pages.preview", name=name, v=row.etag)
    return WorklistItem.model_validate(
        {
            **vars(row),
            "state": row.state,
            "review": row.review,
            "reviewers": row.reviewers,
            "url": url_for("api.verdict", name=name),
            "page": url_for("pages.xray", name=name),
            "preview": preview,
        }
    )


_CSV = [name for name in WorklistItem.model_fields if name not in ("url", "page", "preview")]


def csv_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the rows as CSV (RFC 4180), with anything that a spreadsheet would take for a formula made text.

    The audit notes how many rows were read, even where the reader stopped early.
    """
    count = 0
    try:
        yield ",".join(_CSV) + "\r\n"
        for row in rows:
            count += 1
            line = io.StringIO()
            shown = replace(row, probability=None) if doubt_of(row.warnings) else row
            csv.writer(line).writerow([_cell(getattr(shown, name)) for name in _CSV])
            yield line.getvalue()
    finally:
        note("export", count=count)


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, list):  # names of readers
        value = "; ".join(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
