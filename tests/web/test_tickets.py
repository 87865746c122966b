"""Uploads straight into the bucket: what a ticket allows, over moto's server."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from handlers.wiring import open_bucket
from pipeline.store.s3 import S3Store
from pipeline.worklist.sqlite import SqliteIndex
from tests.support import buckets
from tests.support.webpage import serve
from web.app import create_page

MAX = 1000


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with buckets.moto() as url:
        yield url


@pytest.fixture
def store(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    with buckets.bucket(moto, monkeypatch) as store:
        yield store


@pytest.fixture
def page(store: S3Store, tmp_path: Path) -> Iterator[FlaskClient]:
    index = SqliteIndex(tmp_path / "index.sqlite")
    yield create_page(store, index, MAX, tickets=store).test_client()
    index.close()


def ask(page: FlaskClient, asked: object, code: int = 200) -> dict[str, Any]:
    answer = page.post("/upload/ticket", json=asked, headers={"Accept": "application/json"})
    assert answer.status_code == code, answer.text
    assert isinstance(answer.json, dict)
    return answer.json


def policy(fields: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(fields["policy"]))
    return found


def send(ticket: dict[str, Any], data: bytes) -> int:
    """Send a form as a browser does."""
    answer = requests.post(ticket["url"], ticket["fields"], files={"file": data}, timeout=20)
    return answer.status_code


def test_a_ticket_writes_the_object_that_it_names(page: FlaskClient, store: S3Store) -> None:
    ticket = ask(page, {"name": "ward 3/Röntgen.jpeg", "size": 3})
    assert ticket["key"] == "inbox/ward 3/Röntgen.jpeg"
    assert send(ticket, b"P\0\xff") == 204
    found = store.get(ticket["key"], MAX)
    assert found is not None
    assert found[1] == b"P\0\xff"
    assert [info.key for info in store.list("")] == [ticket["key"]]


def test_a_ticket_is_for_one_key_of_a_limited_size_and_a_few_minutes(page: FlaskClient) -> None:
    fields = ask(page, {"name": "a.jpeg", "size": MAX})["fields"]
    found = policy(fields)
    keys = [rule for rule in found["conditions"] if "key" in rule or "$key" in rule]
    assert keys == [{"key": "inbox/a.jpeg"}]
    assert fields["key"] == "inbox/a.jpeg"
    assert ["content-length-range", 1, MAX] in found["conditions"]
    assert {"bucket": "xrays"} in found["conditions"]
    assert not [rule for rule in found["conditions"] if isinstance(rule, list) and rule[0] == "starts-with"]
    assert fields["x-amz-algorithm"] == "AWS4-HMAC-SHA256"
    left = datetime.fromisoformat(found["expiration"]) - datetime.now(UTC)
    assert timedelta(minutes=4) < left <= timedelta(minutes=5)


def test_a_name_that_is_taken_goes_through_the_page(page: FlaskClient, store: S3Store) -> None:
    store.put("inbox/a.jpeg", b"P", None)
    assert "send it to /upload" in ask(page, {"name": "a.jpeg", "size": 1}, 409)["error"]


@pytest.mark.parametrize("name", ["${filename}", "x/${filename}", "a$b.jpeg"])
def test_a_name_that_the_bucket_would_understand_otherwise_does_too(page: FlaskClient, name: str) -> None:
    ask(page, {"name": name, "size": 1}, 409)


@pytest.mark.parametrize(
    "name", ["../outbox/a.json", "/a", "a//b", "..\\a", "", ".hidden", "n" * 251, "\ud800"]
)
def test_no_ticket_leads_out_of_the_inbox(page: FlaskClient, name: str) -> None:
    ask(page, {"name": name, "size": 1}, 400)


def test_a_file_that_is_too_large_gets_none(page: FlaskClient) -> None:
    assert "larger than" in ask(page, {"name": "a.jpeg", "size": MAX + 1}, 413)["error"]


@pytest.mark.parametrize(
    "asked",
    [None, [], {}, {"name": "a"}, {"name": 1, "size": 1}]
    + [{"name": "a", "size": size} for size in ("1", True, 1.5, None, 0, -1)],
)
def test_what_is_no_question_is_refused(page: FlaskClient, asked: object) -> None:
    assert "name and the size" in ask(page, asked, 400)["error"]


def test_without_a_bucket_there_are_none(tmp_path: Path) -> None:
    other = serve(tmp_path)
    assert other.client.post("/upload/ticket", json={"name": "a.jpeg", "size": 1}).status_code == 404
    assert "data-ticket" not in other.get("/")
    other.index.close()


def test_another_site_gets_no_ticket(page: FlaskClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert page.post("/upload/ticket", json={"name": "a", "size": 1}, headers=headers).status_code == 403


def test_the_pages_policy_lets_scripts_reach_the_bucket_alone(page: FlaskClient, store: S3Store) -> None:
    answer = page.get("/")
    assert f"; connect-src 'self' {store.origin}; " in answer.headers["Content-Security-Policy"]
    assert store.origin.startswith("http://127.0.0.1:")
    assert 'data-ticket="/upload/ticket"' in answer.text


def test_a_ticket_leads_to_the_buckets_own_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere S3 redirects, and a browser does not follow that to another origin."""
    buckets.credentials(monkeypatch)
    store = open_bucket("xrays")
    assert store.origin == "https://xrays.s3.eu-central-1.amazonaws.com"
    assert store.presign_post("inbox/a", 1).url == store.origin + "/"
