"""The status page as one Flask app. Nothing happens at import."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from flask import Flask, request

from pipeline.dicom.arrivals import Arrivals
from pipeline.outgoing.lane import Outgoing
from pipeline.ports import Monitor, Results, Store, Tickets
from pipeline.statistics.drift import DriftReference
from pipeline.statistics.reader import Statistics
from pipeline.worklist.sqlite import SqliteIndex
from web import errors, security, wording
from web.access import Access, restrict
from web.acting.full import FullPicture, full_blueprint
from web.acting.routes import Eraser, acting_blueprint
from web.api import api_blueprint
from web.audit import Audit, keep
from web.pacs.fhir import fhir_blueprint
from web.pacs.stow import stow_blueprint
from web.pages import NameConverter, host_blueprint, outgoing_blueprint, pages_blueprint, results_blueprint
from web.reviews.blind import install_blind
from web.reviews.routes import reviews_blueprint
from web.statistics.routes import install_statistics, statistics_blueprint
from web.upload import upload_blueprint

_FORM_BYTES = 1_000_000  # in a request besides its file
_LARGEST_OBJECTS = 4  # that fit together into a request of DICOMweb


class StatusPage(Flask):
    """Serve like Flask, but do not log paths: a file name may be a patient's name."""

    def log_exception(
        self, exc_info: tuple[type, BaseException, TracebackType] | tuple[None, None, None]
    ) -> None:
        """Log the trace of a failed request with the name of its handler only."""
        self.logger.error("a request failed: %s %s", request.method, request.endpoint, exc_info=exc_info)


def create_page(
    store: Store,
    index: SqliteIndex,
    max_upload_bytes: int,
    card: Mapping[str, Any] | None = None,
    *,
    tickets: Tickets | None = None,
    results: Results | None = None,
    arrivals: Arrivals | None = None,
    outgoing: Outgoing | None = None,
    eraser: Eraser | None = None,
    full_picture: FullPicture | None = None,
    operations: Monitor | None = None,
    access: Access | None = None,
    audit: Audit | None = None,
    problems: Callable[[], list[str]] | None = None,
    others: Callable[[], int] | None = None,
) -> Flask:
    """Build the page of one store and its worklist.

    `max_upload_bytes` limits one uploaded file, and with a little more each request: the script sends one
    file at a time, the form without script several that fit in together.

    `card` is the model card (`model/weights/*.json`) of the network that judges, if it has one.
    With `tickets` of the store, uploads go straight to the store instead of through the page.
    `results` makes DICOM objects of verdicts; without it the page does not offer them. `outgoing` sends them.
    `eraser` erases X-rays for good, and `full_picture` makes pictures of their own size; without them the
    page does not offer that.
    `arrivals` takes those that programs send by DICOMweb.
    `operations` reports on host and queue; without it the page has no panel for them. `problems` returns
    what is not running as it should, one sentence each, without names of files: the panel shows them, and
    `/healthz` fails while there are any. `others` counts the other programs that serve this store; the panel
    says so.

    By default the page answers anyone, under this machine's own names; `access` restricts that. What people
    do is written to `audit`.
    """
    access = access or Access()
    app = StatusPage(__name__)
    app.config.from_mapping(ALLOWED_HOSTS=access.hosts, MAX_CONTENT_LENGTH=max_upload_bytes + _FORM_BYTES)
    app.config["CONNECT_ORIGINS"] = (tickets.origin,) if tickets else ()
    app.config["LARGE_BODIES"] = {}  # by the path's beginning, in bytes; for the server, too
    app.url_map.merge_slashes = False  # a key may hold two in a row
    app.url_map.converters["name"] = NameConverter
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    wording.install(app)
    install_blind(app)
    reference = card.get("reference") if card else None
    statistics = Statistics(index, DriftReference.model_validate(reference) if reference else None)
    install_statistics(app, statistics)
    security.harden(app)
    restrict(app, access)
    keep(app, audit)
    errors.explain(app)
    app.register_blueprint(pages_blueprint(store, index, max_upload_bytes, card, problems or list, outgoing))
    app.register_blueprint(api_blueprint(store, index, statistics, operations, outgoing))
    app.register_blueprint(statistics_blueprint(statistics))
    app.register_blueprint(reviews_blueprint(store, index))
    app.register_blueprint(upload_blueprint(store, index, max_upload_bytes, tickets))
    app.register_blueprint(fhir_blueprint(store, index))
    app.register_blueprint(acting_blueprint(store, index, max_upload_bytes, results, eraser))
    app.jinja_env.globals.update(offers_dicom=results is not None, offers_forget=eraser is not None)
    app.jinja_env.globals["offers_full"] = full_picture is not None
    if full_picture:
        app.register_blueprint(full_blueprint(store, index, max_upload_bytes, full_picture))
    if results:
        app.register_blueprint(results_blueprint(index, results))
    if arrivals:
        most = app.config["LARGE_BODIES"]["/dicom-web/"] = _LARGEST_OBJECTS * max_upload_bytes + _FORM_BYTES
        app.register_blueprint(stow_blueprint(arrivals, most))
    if outgoing:
        app.register_blueprint(outgoing_blueprint(outgoing))
    if operations or problems:
        app.register_blueprint(host_blueprint(operations, card, problems or list, others or int))
    return app
