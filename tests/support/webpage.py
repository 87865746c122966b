"""Serve the page under test, with verdicts by the real judge."""

import io
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from pipeline.intake import record_verdict
from pipeline.judge import Judge
from pipeline.names import verdict_key
from pipeline.records import Job, Ticket
from pipeline.store.folder import FolderStore
from pipeline.verdict import Release
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import LIMIT, FakeEngine
from web.app import create_page

RELEASE = Release(number=1, version="test")
MAX_UPLOAD = 1000
NOW = datetime(2025, 11, 23, 2, 0, tzinfo=UTC)
HOSTILE = "<img src=x onerror=alert(1)>\"'&.jpeg"
UNICODE = "Röntgen 正面像 गोपनीय صورة " * 4 + "é́" * 7 + "xyz\u202egpj.jpeg"  # 230 bytes


class Booth:
    """Issue tickets for a bucket that does not exist."""

    origin = "https://xrays.example"

    def presign_post(self, key: str, max_bytes: int) -> Ticket:
        return Ticket(self.origin, {"key": key})


@dataclass(frozen=True)
class Page:
    """Hold the page and the parts behind it."""

    client: FlaskClient
    store: FolderStore
    index: SqliteIndex

    def judged(self, name: str, data: bytes) -> str:
        """Drop a file, judge it, and return its ETag."""
        key = f"inbox/{name}"
        etag = self.store.put(key, data, None)
        Judge(self.store, FakeEngine(), RELEASE, LIMIT).judge(Job(key))
        record_verdict(verdict_key(key), self.store, self.index)
        return etag

    def finished(self, name: str, moment: datetime) -> None:
        """Set the time at which a row got its verdict."""
        row = self.index.get(f"inbox/{name}")
        assert row is not None
        self.index.record(replace(row, finished_at=moment))

    def get(self, address: str, code: int = 200, **options: object) -> str:
        with self.client.get(address, **options) as answer:
            assert answer.status_code == code, answer.get_data(as_text=True)
            return answer.get_data(as_text=True)

    def xray(self, name: str, code: int = 200) -> str:
        return self.get(f"/xray/{quote(name)}", code)

    def upload(
        self, *files: tuple[str, bytes], script: bool = True, headers: dict[str, str] | None = None
    ) -> TestResponse:
        accept = "application/json" if script else "text/html,*/*;q=0.8"
        fields = {"files": [(io.BytesIO(data), name) for name, data in files]}
        return self.client.post("/upload", data=fields, headers={"Accept": accept, **(headers or {})})

    def inbox(self) -> dict[str, bytes]:
        found = [self.store.get(info.key, LIMIT) for info in self.store.list("inbox/")]
        return {one[0].key.removeprefix("inbox/"): one[1] for one in found if one}


def serve(folder: Path, card: dict[str, Any] | None = None) -> Page:
    """Serve the page over an empty folder."""
    store, index = FolderStore(folder / "data"), SqliteIndex(folder / "index.sqlite")
    return Page(create_page(store, index, MAX_UPLOAD, card).test_client(), store, index)
