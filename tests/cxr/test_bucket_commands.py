"""The commands that work on a bucket with the user's own credentials, over moto."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from cxr.commands import app
from handlers import wiring
from pipeline.errors import CxrError, StoreError, UsageError
from pipeline.intake import record_verdict
from pipeline.store.s3 import S3Store
from pipeline.worklist.dynamodb import DynamoIndex
from tests.support.fakes import SAMPLES, make_judge
from tests.support.tables import FEED, make_table

SAMPLE = (SAMPLES / "normal-1.jpeg").read_bytes()


class Account:
    """Hold a bucket with three X-rays and a file that is not an image, and its stack's table and queue."""

    def __init__(self) -> None:
        self.s3: Any = boto3.client("s3", "us-east-1")
        self.s3.create_bucket(Bucket="xrays")
        self.s3.put_bucket_versioning(Bucket="xrays", VersioningConfiguration={"Status": "Enabled"})
        for name in ("a/1.jpeg", "a/2.jpeg", "b.jpeg"):
            self.s3.put_object(Bucket="xrays", Key=f"inbox/{name}", Body=SAMPLE + name.encode())
        self.s3.put_object(Bucket="xrays", Key="inbox/a/", Body=b"")
        self.s3.put_object(Bucket="xrays", Key="inbox/a/none.txt", Body=b"no image")
        self.dynamodb: Any = boto3.client("dynamodb", "us-east-1")
        make_table(self.dynamodb, "cxr-inbox-index", "key", FEED)
        self.sqs: Any = boto3.client("sqs", "us-east-1")
        self.queue = self.sqs.create_queue(QueueName="cxr-inbox-jobs")["QueueUrl"]
        self.store = S3Store("xrays", self.s3)
        self.index = DynamoIndex("cxr-inbox-index", self.dynamodb)

    def queued(self) -> list[str]:
        found = self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", [])
        bodies = [json.loads(message["Body"]) for message in found]
        return sorted(body["Records"][0]["s3"]["object"]["key"] for body in bodies)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        yield Account()


def run(*arguments: str, code: int = 0) -> str:
    answer = CliRunner().invoke(app, arguments)
    if isinstance(answer.exception, CxrError):
        raise answer.exception
    assert answer.exit_code == code, answer.output
    return answer.stdout


def test_classify_a_folder_of_a_bucket(account: Account) -> None:
    verdicts = [
        json.loads(line) for line in run("classify", "--json", "s3://xrays/inbox/a/", code=1).splitlines()
    ]
    assert {verdict["source"]["key"]: verdict["status"] for verdict in verdicts} == {
        "inbox/a/1.jpeg": "classified",
        "inbox/a/2.jpeg": "classified",
        "inbox/a/none.txt": "rejected",
    }
    assert {verdict["source"]["bucket"] for verdict in verdicts} == {"xrays"}
    assert "inbox/b.jpeg: normal" in run("classify", "s3://xrays/inbox/b.jpeg")
    assert not list(account.store.list("outbox/"))


@pytest.mark.parametrize("address", ["s3://", "s3://xrays/inbox/b", "s3://xrays/none/"])
def test_an_address_of_nothing(account: Account, address: str) -> None:
    with pytest.raises(UsageError, match="s3://"):
        run("classify", address)


def test_a_bucket_that_is_not_there(account: Account) -> None:
    with pytest.raises(StoreError, match="no such bucket"):
        run("classify", "s3://another/inbox/")


def test_no_credentials(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(StoreError, match="aws configure"):
        run("classify", "s3://xrays/inbox/")


def test_a_profile_that_is_not_there(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(UsageError, match="set AWS_PROFILE"):
        run("up", "--bucket", "xrays")


def test_no_region(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(UsageError, match="AWS_REGION"):
        wiring.aws().client("sqs")


def test_reconcile_queues_what_has_no_verdict(account: Account) -> None:
    make_judge(account.store).judge(_job("inbox/b.jpeg"))  # type: ignore[arg-type]
    record_verdict("outbox/b.jpeg.json", account.store, account.index)
    assert run("reconcile", "--bucket", "xrays") == "3 queued, 3 without a verdict\n"
    assert account.queued() == ["inbox/a/1.jpeg", "inbox/a/2.jpeg", "inbox/a/none.txt"]


def test_reconcile_of_the_bucket_that_the_settings_name(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"BUCKET": "xrays", "QUEUE_URL": account.queue}
    for name, value in settings.items():
        monkeypatch.setenv(f"CXR_{name}", value)
    assert run("reconcile", "--stack", "cxr-inbox") == "4 queued, 4 without a verdict\n"
    assert len(account.queued()) == 4


def test_reconcile_without_the_stack(account: Account) -> None:
    with pytest.raises(StoreError, match="--stack"):
        run("reconcile", "--bucket", "xrays", "--stack", "another")


def test_forget_erases_every_version(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr.upkeep._LONGEST_JOB_SECONDS", 0)
    account.s3.put_object(Bucket="xrays", Key="inbox/b.jpeg", Body=SAMPLE)
    make_judge(account.store).judge(_job("inbox/b.jpeg"))  # type: ignore[arg-type]
    record_verdict("outbox/b.jpeg.json", account.store, account.index)
    assert run("forget", "b.jpeg", "--bucket", "xrays", "--yes") == "inbox/b.jpeg is erased\n"
    versions = account.s3.list_object_versions(Bucket="xrays")
    keys = {item["Key"] for kind in ("Versions", "DeleteMarkers") for item in versions.get(kind, [])}
    assert keys == {"inbox/a/", "inbox/a/1.jpeg", "inbox/a/2.jpeg", "inbox/a/none.txt"}
    assert account.index.get("inbox/b.jpeg") is None
    with pytest.raises(StoreError, match=r"nothing is stored for inbox/b\.jpeg"):
        run("forget", "inbox/b.jpeg", "--bucket", "xrays", "--yes")


@pytest.mark.parametrize("key", ["", "inbox/", "a/"])
def test_forget_of_an_empty_name_or_a_folder_erases_nothing(account: Account, key: str) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        run("forget", key, "--bucket", "xrays", "--yes")
    assert len(list(account.store.list("inbox/"))) == 5


def test_forget_asks_first(account: Account) -> None:
    answer = CliRunner().invoke(app, ["forget", "b.jpeg", "--bucket", "xrays"], input="n\n")
    assert answer.exit_code == 1
    assert account.store.head("inbox/b.jpeg")


def _job(key: str) -> Any:
    from pipeline.records import Job

    return Job(key)
