"""Run the whole AWS side on the loopback.

moto plays S3, SQS, DynamoDB and EC2; the handlers run in Lambda's own runtime; a stand-in for the Instance
Connect Endpoint leads to a real SSH server and to the real worker, a process.
"""

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from pipeline.records import Row
from pipeline.store.s3 import S3Store
from pipeline.verdict import Verdict
from pipeline.worklist.dynamodb import DynamoIndex
from tests.support.aws import emulator
from tests.support.instance_connect import Endpoint, InstanceConnectApi
from tests.support.machines import (
    ACCESS_KEY,
    REGION,
    SECRET,
    USER,
    InvocationFailed,
    Lambda,
    Moto,
    Sshd,
    Supervised,
    aws_environment,
    free_port,
    wait_for,
)
from tests.support.tables import FEED, make_table

STACK, BUCKET, ROLE_ID, ENDPOINT_ID = "cxr", "cxr-test", "AROATEST", "eice-0123456789abcdef0"
VISIBILITY = 4  # seconds; the template's are 720
RECEIVES = 5
BATCH = 32
HANDLERS = ("ingest", "record", "dead_letter")


class Cloud:
    """Hold an account with the stack in it. Its host does not run before `boot`."""

    def __init__(self, folder: Path, through: Callable[[str], str] = str) -> None:
        """Make the account; our own programs reach moto at the address that `through` returns."""
        self.folder = folder
        self.moto = Moto(folder)
        self._aws = through(self.moto.url)
        self._config = Config(retries={"mode": "standard", "total_max_attempts": 4})
        self.s3, self.sqs, self.ec2, self.dynamodb = map(self.client, ("s3", "sqs", "ec2", "dynamodb"))
        self.store = S3Store(BUCKET, self.s3)
        self._make_stack()
        self.worker_port = free_port()
        self.sshd = Sshd(folder / "sshd", self.worker_port)
        self.api = InstanceConnectApi(self.sshd)
        self.endpoint = Endpoint(self.sshd.port, ENDPOINT_ID)
        self.worker: Supervised | None = None
        self.first: list[dict[str, Any]] = []  # results of the upload that launched the host
        self.lambdas = {name: self.make_lambda(name) for name in HANDLERS}

    def client(self, service: str) -> Any:
        """Return a boto3 client of this account."""
        return boto3.client(
            service,
            endpoint_url=self.moto.url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
            config=self._config,
        )

    def make_lambda(self, name: str, seconds: int = 120) -> Lambda:
        """Start a function of the stack with the environment of the template."""
        env = {
            **aws_environment(self.moto, EC2_INSTANCE_CONNECT=self.api.url),
            "AWS_ENDPOINT_URL": self._aws,
            "PATH": "/usr/bin:/bin",
            "TEST_ENDPOINT": self.endpoint.url,
            "TEST_HOST_USER": USER,
            "CXR_BUCKET": BUCKET,
            "CXR_HOST": "ec2",
            "CXR_STACK": STACK,
            "CXR_QUEUE_URL": self.jobs,
            "CXR_SUBNETS": ",".join(self.subnets),
            "CXR_INSTANCE_TYPES": "t3.medium",
            "CXR_CONNECT_ENDPOINT": ENDPOINT_ID,
            "CXR_HOST_ROLE_ID": ROLE_ID,
            "CXR_WORKER_PORT": str(self.worker_port),
            "CXR_LOG_KEY": "a secret",
            "CXR_LOG_LEVEL": "INFO",
        }
        log = self.folder / f"lambda-{name}.log"
        return Lambda(emulator(), f"tests.support.lambda_main.{name}", env, log, seconds)

    def boot(self) -> None:
        """Play EC2: do what a launched instance does when it boots."""
        wait_for(lambda: self.instance_id(), what="a launch")
        env = {
            **aws_environment(self.moto),
            "AWS_ENDPOINT_URL": self._aws,
            "PATH": "/usr/bin:/bin",
            "CXR_BUCKET": BUCKET,
            "CXR_HOST_ID": f"{ROLE_ID}:{self.instance_id()}",
            "TEST_HOST_KEY": str(self.sshd.folder / "host_key.pub"),
            "CXR_WORKER_PORT": str(self.worker_port),
            "CXR_IDLE_MINUTES": "600",
            "CXR_LOG_KEY": "a secret",
        }
        command = [sys.executable, "-m", "tests.support.worker_main"]
        self.worker = Supervised(command, self.worker_port, self.folder / "worker.log", env)
        wait_for(lambda: self.store.head(self.host_place() + "ready.json"), what="ready.json")

    def instance_id(self) -> str | None:
        """Return the host in the lease."""
        item = self.dynamodb.get_item(TableName=f"{STACK}-lease", Key={"id": {"S": "host"}}).get("Item", {})
        return item["instance_id"]["S"] if "instance_id" in item else None

    def host_place(self) -> str:
        """Return the key under which the host publishes its state."""
        return f"system/hosts/{ROLE_ID}:{self.instance_id()}/"

    def drop(self, objects: Mapping[str, bytes]) -> None:
        """Upload to the inbox; S3 notifies the queue."""
        for name, data in objects.items():
            self.s3.put_object(Bucket=BUCKET, Key=f"inbox/{name}", Body=data)

    def verdict(self, name: str) -> Verdict | None:
        """Return the verdict in the outbox."""
        found = self.store.get(f"outbox/{name}.json", 1 << 20)
        return Verdict.from_json(found[1]) if found else None

    def verdicts(self, prefix: str) -> dict[str, Verdict]:
        """Return all verdicts of one inbox folder, by name."""
        keys = [info.key for info in self.store.list(f"outbox/{prefix}")]
        names = [key.removeprefix("outbox/").removesuffix(".json") for key in keys]
        return {name: verdict for name in names if (verdict := self.verdict(name))}

    def count(self, prefix: str) -> int:
        """Count the verdicts of one inbox folder."""
        return sum(1 for _ in self.store.list(f"outbox/{prefix}"))

    def rows(self) -> dict[str, Row]:
        """Return the worklist in DynamoDB, by key.

        moto, unlike DynamoDB, shows an item with only its key for a moment; then all rows are read again.
        """
        index, deadline = DynamoIndex(f"{STACK}-index", self.dynamodb), time.monotonic() + 10
        while True:
            try:
                return {row.key: row for row in index.all()}
            except KeyError:
                if time.monotonic() > deadline:
                    raise

    def writes(self, prefix: str) -> dict[str, int]:
        """Count how often each verdict of one inbox folder was written."""
        pages = self.s3.get_paginator("list_object_versions").paginate(
            Bucket=BUCKET, Prefix=f"outbox/{prefix}"
        )
        keys = [item["Key"] for page in pages for item in page.get("Versions", [])]
        return dict(Counter(key.removeprefix("outbox/").removesuffix(".json") for key in keys))

    def queued(self) -> dict[str, int]:
        """Count the messages of the jobs queue: visible, in flight and delayed."""
        names = {"visible": "", "in_flight": "NotVisible", "delayed": "Delayed"}
        asked = {name: f"ApproximateNumberOfMessages{end}" for name, end in names.items()}
        found = self.sqs.get_queue_attributes(QueueUrl=self.jobs, AttributeNames=list(asked.values()))
        return {name: int(found["Attributes"][end]) for name, end in asked.items()}

    def stop(self) -> None:
        """Stop all parts."""
        parts = [self.worker, *self.lambdas.values(), self.endpoint, self.api, self.sshd, self.moto]
        for part in parts:
            if part:
                part.stop()

    def _make_stack(self) -> None:
        self.s3.create_bucket(Bucket=BUCKET)
        self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        self.dead = self._queue("jobs-dead")
        self.jobs = self._queue("jobs", self.dead)
        self.told = self._queue("verdicts")
        filters = (("inbox/", "", self.jobs), ("outbox/", ".json", self.told))
        rules = [
            {
                "QueueArn": self._arn(url),
                "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                "Filter": {
                    "Key": {
                        "FilterRules": [
                            {"Name": name, "Value": value}
                            for name, value in (("prefix", prefix), ("suffix", suffix))
                            if value
                        ]
                    }
                },
            }
            for prefix, suffix, url in filters
        ]
        self.s3.put_bucket_notification_configuration(
            Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": rules}
        )
        make_table(self.dynamodb, f"{STACK}-lease", "id")
        make_table(self.dynamodb, f"{STACK}-index", "key", FEED)
        machine = {"ImageId": "ami-12c6146b", "InstanceType": "t3.medium"}
        self.ec2.create_launch_template(LaunchTemplateName=f"{STACK}-host", LaunchTemplateData=machine)
        self.subnets = [subnet["SubnetId"] for subnet in self.ec2.describe_subnets()["Subnets"]][:2]

    def _queue(self, name: str, dead: str | None = None) -> str:
        attributes = {"VisibilityTimeout": str(VISIBILITY)}
        if dead:
            policy = {"deadLetterTargetArn": self._arn(dead), "maxReceiveCount": RECEIVES}
            attributes["RedrivePolicy"] = json.dumps(policy)
        return str(self.sqs.create_queue(QueueName=f"{STACK}-{name}", Attributes=attributes)["QueueUrl"])

    def _arn(self, url: str) -> str:
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return str(found["Attributes"]["QueueArn"])


class Pump:
    """Play Lambda's event source mapping of one queue.

    It receives messages, invokes the function and deletes the messages that were not reported as failed. With
    `unruly` it delivers the share `twice` of the batches twice, and their messages in any order.
    """

    def __init__(
        self,
        cloud: Cloud,
        queue: str,
        function: str,
        unruly: random.Random | None = None,
        twice: float = 0.3,
    ) -> None:
        self._sqs, self._queue, self._unruly, self._twice = cloud.client("sqs"), queue, unruly, twice
        self._cloud, self._function = cloud, function
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self._stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"pump-{function}", daemon=True)
        self.thread.start()  # an error that it does not know ends it

    def stop(self) -> None:
        """Stop after the current batch."""
        self._stopping.set()
        self.thread.join(60)

    def _run(self) -> None:
        while not self._stopping.is_set():
            messages = self._take()
            if messages:
                self._deliver(messages)
            else:
                time.sleep(0.25)

    def _take(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while len(messages) < BATCH:
            answer = self._sqs.receive_message(
                QueueUrl=self._queue,
                MaxNumberOfMessages=10,
                WaitTimeSeconds=0,
                AttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
            found = answer.get("Messages", [])
            messages += found
            if len(found) < 10:
                break
        return messages

    def _deliver(self, messages: list[dict[str, Any]]) -> None:
        if self._unruly:
            self._unruly.shuffle(messages)
        event = {"Records": [_record(message) for message in messages]}
        try:
            for _ in range(2 if self._unruly and self._unruly.random() < self._twice else 1):
                answer = self._cloud.lambdas[self._function].invoke(event)
        except (InvocationFailed, OSError) as error:
            self.failures.append(str(error))
            return  # they come again when their time is over
        self.answers.append(answer)
        kept = {item["itemIdentifier"] for item in answer.get("batchItemFailures", [])}
        done = [message["ReceiptHandle"] for message in messages if message["MessageId"] not in kept]
        for first in range(0, len(done), 10):  # SQS takes ten at once
            entries = [
                {"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(done[first : first + 10])
            ]
            deleted = self._sqs.delete_message_batch(QueueUrl=self._queue, Entries=entries)
            # Its handle is of no use any more where a message came again meanwhile.
            codes = {failed["Code"] for failed in deleted.get("Failed", ())}
            assert codes <= {"ReceiptHandleIsInvalid"}, deleted


def _record(message: dict[str, Any]) -> dict[str, Any]:
    """Return an SQS message as Lambda writes it into an event."""
    attributes = {
        name: {"stringValue": value["StringValue"], "dataType": value["DataType"]}
        for name, value in message.get("MessageAttributes", {}).items()
    }
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": attributes,
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:cxr-jobs",
        "awsRegion": REGION,
    }


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition, with patience for a slow machine."""
    wait_for(condition, seconds)
