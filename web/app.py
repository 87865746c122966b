"""The status page, put together. Nothing happens at import."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from flask import Flask, request

from pipeline.ports import Monitor, Store, Tickets
from pipeline.worklist.sqlite import SqliteIndex
from web import api, errors, pages, panel, resubmit, security, upload, wording
from web.access import Access, protect
from web.audit import Audit, keep

_FORM_BYTES = 1_000_000  # of a request, around its file


class StatusPage(Flask):
    """Flask, but for its habit of logging paths: a file name may be a patient's name."""

    def log_exception(
        self, exc_info: tuple[type, BaseException, TracebackType] | tuple[None, None, None]
    ) -> None:
        """Log the trace of a request that failed, by the name of its handler alone."""
        self.logger.error("a request failed: %s %s", request.method, request.endpoint, exc_info=exc_info)


def create_app(
    store: Store,
    index: SqliteIndex,
    max_upload_bytes: int,
    card: Mapping[str, Any] | None = None,
    *,
    tickets: Tickets | None = None,
    operations: Monitor | None = None,
    access: Access | None = None,
    audit: Audit | None = None,
    problems: Callable[[], list[str]] | None = None,
) -> Flask:
    """The page of one store and of its worklist; `max_upload_bytes` is the limit of one uploaded file.

    Script sends one file with each request, and so no request may be much larger; the form without script may
    hold several that fit in as much.

    `card` is the model card (`model/weights/*.json`) of the network that judges, if there is one.
    With `tickets`, the store's, uploads go straight to it and not through the page.
    `operations` tells of host and queue; without it, the page has no panel of theirs. `problems` says, in a
    sentence each and without names of files, what does not run as it should: the panel shows them, and
    `/healthz` fails meanwhile.

    It answers to this machine's own names, and everybody, unless `access` says otherwise. What people do
    is noted in `audit`.
    """
    access = access or Access()
    app = StatusPage(__name__)
    app.config.from_mapping(ALLOWED_HOSTS=access.hosts, MAX_CONTENT_LENGTH=max_upload_bytes + _FORM_BYTES)
    app.config["CONNECT_ORIGINS"] = (tickets.origin,) if tickets else ()
    app.url_map.merge_slashes = False  # a key may hold two in a row
    app.url_map.converters["name"] = pages.NameConverter
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    wording.install(app)
    security.protect(app)
    protect(app, access)
    keep(app, audit)
    errors.explain(app)
    app.register_blueprint(pages.blueprint(store, index, max_upload_bytes, card, problems or list))
    app.register_blueprint(api.blueprint(store, index, operations))
    app.register_blueprint(upload.blueprint(store, max_upload_bytes, tickets))
    app.register_blueprint(resubmit.blueprint(store, index, max_upload_bytes))
    if operations or problems:
        app.register_blueprint(panel.blueprint(operations, card, problems or list))
    return app
