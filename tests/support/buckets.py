"""Provide a bucket that a browser can reach: moto's server, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
from moto.server import ThreadedMotoServer

from handlers import wiring
from pipeline.store.s3 import S3Store

REGION = "eu-central-1"


@contextmanager
def moto() -> Iterator[str]:
    """Return the address of the server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@contextmanager
def bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """Return an empty bucket with the clients that the product makes."""
    credentials(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    place = {"LocationConstraint": REGION}
    wiring.aws().client("s3").create_bucket(Bucket="xrays", CreateBucketConfiguration=place)
    yield wiring.open_bucket("xrays")
    requests.post(f"{url}/moto-api/reset", timeout=20)


def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the credentials of an account that does not exist."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, REGION)
