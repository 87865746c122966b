"""Provide fixtures that several tests need."""

import gc
import logging
import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING
from unittest import mock

import botocore.session
import pytest
from botocore.client import ClientCreator
from flask import Flask
from jinja2.bccache import Bucket, BytecodeCache
from moto.core.models import MockAWS

from handlers import wiring
from pipeline.running import logs
from pipeline.worklist.sqlite import SqliteIndex
from tests.support import webpage
from tests.support.tables import FEED, make_table

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from pipeline.store.s3 import S3Store
    from pipeline.worklist.dynamodb import DynamoIndex

os.environ["CXR_CONFIG"] = str(Path(__file__).parent / "support" / "no-settings.toml")
os.environ.pop("AWS_REGION", None)  # a developer's; it would come before the tests' AWS_DEFAULT_REGION
# Each more is a process that loads the network; what is about several at once sets it.
os.environ["CXR_THREADS"] = "1"
# Before anything imports moto's EC2; its servers inherit it.
os.environ["MOTO_AMIS_PATH"] = str(Path(__file__).parent / "support" / "amis.json")
# Each session of boto3 reads the descriptions of AWS's services anew, and makes a class of one for each
# client; here that is done once.
botocore.session.create_loader = cache(botocore.session.create_loader)
_client_classes: dict[str, type] = {}
_make_client_class = ClientCreator._create_client_class


def _client_class(creator: ClientCreator, service: str, model: object) -> type:
    if service not in _client_classes:
        _client_classes[service] = _make_client_class(creator, service, model)
    return _client_classes[service]


ClientCreator._create_client_class = _client_class


class _Templates(BytecodeCache):
    """Keep the compiled templates for all pages of this process: each page would compile them anew."""

    def __init__(self) -> None:
        self._compiled: dict[str, tuple[str, CodeType | None]] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        checksum, code = self._compiled.get(bucket.key, ("", None))
        bucket.code = code if checksum == bucket.checksum else None

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._compiled[bucket.key] = bucket.checksum, bucket.code


Flask.jinja_options = {"bytecode_cache": _Templates()}

# Long, or waiting more than computing: begun first, so that others run beside them to the end.
_FIRST = ("test_cloud", "test_training", "test_figures", "test_backfill_ray", "test_status", "test_host")
# What `make unit` leaves out: tests that start a process, a server, a browser or moto, or take long. By file,
# by fixture and by its parameter; single tests are marked `whole` where they stand.
_UNIT = "not whole"
_WHOLE_FILES = {
    *("test_backfill_command", "test_backfill_ray", "test_bucket_commands", "test_bucket_page", "test_cli"),
    *("test_deploy", "test_host", "test_instance_connect", "test_monitor", "test_reaper", "test_slot"),
    *(
        "test_preview",
        "test_slots",
        "test_release",
        "test_remote",
        "test_stack",
        "test_status",
        "test_package",
        "test_sam_local",
    ),
    *("test_figures", "test_fuzz", "test_guarded", "test_overlay", "test_populations", "test_site"),
    *("test_training", "test_api", "test_watch", "test_watch_faults", "test_mirror", "test_s3_faults"),
    *("test_node", "test_hostile_senders", "test_sending"),
    *("test_sqs", "test_interleavings", "test_engine", "test_decode", "test_dicom_frames", "test_pointing"),
}
_WHOLE_FIXTURES = {"browser", "dig", "dynamo", "moto", "s3_store"}
_WHOLE_PARAMETERS = ("dynamo", "s3")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use one worker more than there are cores: many system tests wait for what they started."""
    return (os.cpu_count() or 1) + (config.option.markexpr != _UNIT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _FIRST.index(item.path.stem) if item.path.stem in _FIRST else len(_FIRST))
    for item in items:
        if _is_whole(item):
            item.add_marker("whole")


def pytest_collection_finish() -> None:
    """Spare the garbage collector the hundreds of thousands of objects that the imports left."""
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Keep `make unit` from reading files that it leaves out: they import torch and Ray."""
    return True if config.option.markexpr == _UNIT and _is_whole_file(collection_path) else None


def _is_whole_file(path: Path) -> bool:
    return path.parent.name == "system" or path.stem in _WHOLE_FILES


def _is_whole(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    return (
        _is_whole_file(item.path)
        or bool(_WHOLE_FIXTURES & set(getattr(item, "fixturenames", ())))
        or (call is not None and any(value in _WHOLE_PARAMETERS for value in call.params.values()))
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep tests of `make unit` from starting a process or moto, so that it stays quick."""
    if item.get_closest_marker("whole"):
        return (yield)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this test starts a process or moto: mark it with pytest.mark.whole")

    with mock.patch.object(subprocess.Popen, "__init__", refuse), mock.patch.object(MockAWS, "start", refuse):
        return (yield)


@pytest.fixture
def s3_store(monkeypatch: pytest.MonkeyPatch) -> Iterator["S3Store"]:
    """Provide a bucket of moto."""
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
    """Provide the status page over an empty folder."""
    page = webpage.serve(tmp_path)
    yield page
    page.index.close()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SqliteIndex]:
    """Provide an empty worklist in a file."""
    index = SqliteIndex(tmp_path / "index.sqlite")
    yield index
    index.close()


@pytest.fixture(autouse=True)
def _own_way_to_aws() -> None:
    """Keep each test from using the clients of another test, whose account is gone."""
    from handlers import wiring

    wiring.aws.cache_clear()


@pytest.fixture
def dynamo(monkeypatch: pytest.MonkeyPatch) -> Iterator["DynamoIndex"]:
    """Provide an empty worklist in a table of moto."""
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
    """Provide Debian's Chromium, driven by playwright; without a window it needs half of the time."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if not path:
        pytest.skip("needs Debian's Chromium: apt-get install chromium-headless-shell")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _unwired() -> Iterator[None]:
    """After each test, take the ports from the handlers and undo the logging that programs set up."""
    yield
    wiring.provide(None)
    for name in logs.OURS:
        log = logging.getLogger(name)
        log.handlers, log.propagate = [], True
        log.setLevel(logging.NOTSET)
