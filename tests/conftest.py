"""Parts that several tests need."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from handlers import wiring
from pipeline import logs
from pipeline.worklist.sqlite import SqliteIndex
from tests.support import webpage
from tests.support.tables import FEED, make_table

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pipeline.store.s3 import S3Store
    from pipeline.worklist.dynamodb import DynamoIndex

os.environ["CXR_CONFIG"] = str(Path(__file__).parent / "support" / "no-settings.toml")

# Long, or waiting more than computing: begun first, so that others run beside them to the end.
_FIRST = ("test_cloud", "test_training", "test_figures", "test_backfill_ray", "test_status", "test_host")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _FIRST.index(item.path.stem) if item.path.stem in _FIRST else len(_FIRST))


@pytest.fixture
def s3_store(monkeypatch: pytest.MonkeyPatch) -> Iterator["S3Store"]:
    """A bucket of moto's."""
    import boto3
    from moto import mock_aws

    from pipeline.store.s3 import S3Store

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


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SqliteIndex]:
    """An empty worklist in a file."""
    index = SqliteIndex(tmp_path / "index.sqlite")
    yield index
    index.close()


@pytest.fixture(autouse=True)
def _own_way_to_aws() -> None:
    """Have no test use the clients of another, whose account is gone."""
    from handlers import wiring

    wiring.aws.cache_clear()


@pytest.fixture
def dynamo(monkeypatch: pytest.MonkeyPatch) -> Iterator["DynamoIndex"]:
    """An empty worklist in a table of moto's."""
    import boto3
    from moto import mock_aws

    from pipeline.worklist.dynamodb import DynamoIndex

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        client = boto3.client("dynamodb", "us-east-1")
        make_table(client, "s-index", "key", FEED)
        yield DynamoIndex("s-index", client)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Debian's Chromium, driven by playwright."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if not path:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _unwired() -> Iterator[None]:
    """Each test provides its own ports to the handlers; no program of an earlier test has set up logging."""
    yield
    wiring.provide(None)
    for name in logs.OURS:
        log = logging.getLogger(name)
        log.handlers, log.propagate = [], True
        log.setLevel(logging.NOTSET)
