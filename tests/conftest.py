"""Parts that several tests need."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from handlers import wiring
from tests import webpage

if TYPE_CHECKING:
    from pipeline.s3 import S3Store


@pytest.fixture
def s3_store(monkeypatch: pytest.MonkeyPatch) -> Iterator["S3Store"]:
    """A bucket of moto's."""
    import boto3
    from moto import mock_aws

    from pipeline.s3 import S3Store

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="cxr-test")
        yield S3Store("cxr-test", client)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[webpage.Page]:
    """The status page over an empty folder."""
    page = webpage.serve(tmp_path)
    yield page
    page.index.close()


@pytest.fixture(autouse=True)
def _unwired() -> Iterator[None]:
    """Each test provides its own ports to the handlers."""
    yield
    wiring.provide(None)
