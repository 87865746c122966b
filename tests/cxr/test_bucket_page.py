"""`cxr up --bucket`: the page over a bucket and its stack's worklist, over moto."""

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
from flask import Flask
from moto import mock_aws
from typer.testing import CliRunner

from cxr import commands
from cxr.commands import app
from pipeline.aws.errors import ask
from pipeline.errors import CxrError, StoreError
from pipeline.intake import record_verdict
from pipeline.names import PAGES
from pipeline.records import Job
from pipeline.running import others
from pipeline.store.s3 import S3Store
from pipeline.worklist.dynamodb import DynamoIndex
from tests.support import dicoms
from tests.support.dicom_senders import send
from tests.support.fakes import make_judge
from tests.support.machines import free_port, wait_for
from tests.support.tables import FEED, make_table


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="xrays")
        make_table(boto3.client("dynamodb"), "cxr-inbox-index", "key", FEED)
        yield S3Store("xrays", s3)


def up(*arguments: str) -> str:
    answer = CliRunner().invoke(app, ["up", "--port", "0", *arguments])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    return answer.stdout


def test_the_page_shows_the_stacks_worklist(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("inbox/a.jpeg", b"P1", None)
    make_judge(store).judge(Job("inbox/a.jpeg"))  # type: ignore[arg-type]
    record_verdict("outbox/a.jpeg.json", store, DynamoIndex("cxr-inbox-index", boto3.client("dynamodb")))
    pages = []

    class Visit:
        """Stand in for a server: visit two pages and upload a file."""

        effective_host, effective_port = "127.0.0.1", 1

        def __init__(self, page: Flask, address: str, port: int) -> None:
            self.client = page.test_client()

        def run(self) -> None:
            pages.extend(self.client.get(path).get_data(as_text=True) for path in ("/", "/xray/a.jpeg"))
            self.client.post("/upload", data={"files": (io.BytesIO(b"N1"), "b.jpeg")})

        def close(self) -> None:
            pages.append("closed")

    monkeypatch.setattr(commands, "_server", Visit)
    assert "Drop chest X-rays into s3://xrays/inbox/" in up("--bucket", "xrays", "--root", str(tmp_path))
    assert pages[2:] == ["closed"]
    assert "a.jpeg" in pages[0]
    assert 'class="host is-' in pages[0]
    assert "Pneumonia" in pages[1]
    assert {info.key for info in store.list("inbox/")} == {"inbox/a.jpeg", "inbox/b.jpeg"}
    assert store.head("outbox/b.jpeg.json") is None  # nothing is judged here


def test_pages_of_one_bucket_know_of_each_other(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, told = others.Others(store), list[bool]()
    monkeypatch.setattr(others, "BEAT_SECONDS", 0.05)

    class Visit:
        """Stand in for a server: look at the panel while another page comes and goes."""

        effective_host, effective_port = "127.0.0.1", 1

        def __init__(self, page: Flask, address: str, port: int) -> None:
            self.client = page.test_client()

        def is_told(self) -> bool:
            return "Another CXR Inbox serves this bucket" in self.client.get("/host").get_data(as_text=True)

        def run(self) -> None:
            wait_for(lambda: store.head(PAGES) is not None)
            told.append(self.is_told())
            other.step()
            other.step()
            wait_for(self.is_told)
            wait_for(lambda: other.step() is None and other.count() == 1)
            other.leave()
            wait_for(lambda: not self.is_told())

        def close(self) -> None:
            pass

    monkeypatch.setattr(commands, "_server", Visit)
    up("--bucket", "xrays", "--root", str(tmp_path))
    assert told == [False]
    found = store.get(PAGES, 1000)
    assert found
    assert found[1] == b"{}"  # it has left, too


def test_a_dicom_node_puts_into_the_bucket(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, statuses = free_port(), list[int]()

    class Server:
        """Stand in for a server: send by DICOM while the page is served."""

        effective_host, effective_port = "127.0.0.1", 1

        def __init__(self, *_: object) -> None:
            pass

        def run(self) -> None:
            statuses.extend(send(port, dicoms.dicom(), dicoms.dicom()))

        def close(self) -> None:
            pass

    monkeypatch.setattr(commands, "_server", Server)
    told = up("--bucket", "xrays", "--root", str(tmp_path), "--dicom-port", str(port))
    assert f"or send them by DICOM to CXR-INBOX at 127.0.0.1, port {port}" in told
    assert statuses == [0, 0]
    [info] = store.list("inbox/")
    assert info.key.endswith(".dcm")


def test_the_page_of_a_bucket_loads_no_network(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It judges nothing, so it needs no ONNX Runtime."""
    for module in [name for name in sys.modules if name.partition(".")[0] in ("model", "handlers", "cxr")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it fails
    served: list[str] = []

    class Server:
        effective_host, effective_port = "127.0.0.1", 1

        def __init__(self, page: Flask, address: str, port: int) -> None:
            served.append(page.test_client().get("/").status)

        def run(self) -> None:
            pass

        def close(self) -> None:
            pass

    fresh = importlib.import_module("cxr.commands")
    monkeypatch.setattr(fresh, "_server", Server)
    answer = CliRunner().invoke(
        fresh.app, ["up", "--port", "0", "--bucket", "xrays", "--root", str(tmp_path)]
    )
    assert answer.exception is None, answer.exception
    assert served == ["200 OK"]


def test_a_bucket_or_a_stack_that_is_not_there(store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(CxrError, match="no such bucket"):
        up("--bucket", "typo", "--root", str(tmp_path))
    with pytest.raises(CxrError, match="--stack"):
        up("--bucket", "xrays", "--stack", "typo", "--root", str(tmp_path))
    assert not list(tmp_path.rglob("typo*"))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (botocore.exceptions.UnauthorizedSSOTokenError(), "log in to AWS again"),
        (botocore.exceptions.CredentialRetrievalError(provider="x", error_msg="y"), "log in to AWS again"),
        *(
            (botocore.exceptions.ClientError({"Error": {"Code": code}}, "GetItem"), advice)
            for code, advice in (
                ("ExpiredTokenException", "log in to AWS again"),
                ("AccessDeniedException", "permission"),
                ("UnrecognizedClientException", "aws configure"),
                ("InvalidSignatureException", "clock"),
            )
        ),
    ],
)
def test_what_to_do_about_credentials_is_said(error: Exception, advice: str) -> None:
    def call(**request: Any) -> dict[str, Any]:
        raise error

    with pytest.raises(StoreError, match=advice):
        ask("the table", call)
