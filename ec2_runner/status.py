"""How a stack is, in lines for a person: `cxr status`."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from ec2_runner.clients import Clients
from ec2_runner.stack import StackState
from ec2_runner.upload import CURRENT
from pipeline.classify import line as verdict_line
from pipeline.names import INBOX, OUTBOX, is_verdict
from pipeline.verdict import Verdict

_HOSTS = "system/hosts/"
_AFTER_PREVIEWS = OUTBOX + ".previews0"  # "0" follows "/"
_PAGES = 10  # of 1,000 names each, that are looked through for the last verdicts
_COUNTS = {
    "ApproximateNumberOfMessages": "waiting",
    "ApproximateNumberOfMessagesNotVisible": "at work",
    "ApproximateNumberOfMessagesDelayed": "to come again",
}
_DEAD = {"jobs-dead": "jobs", "verdicts-dead": "verdicts that the worklist could not take"}


def report(name: str, state: StackState, clients: Clients, verdicts: int = 5) -> Iterator[str]:
    """The lines. They show names of files."""
    bucket = state.parameters["BucketName"]
    yield f"stack     {name} in {clients.region}: {state.status}"
    yield f"inbox     s3://{bucket}/{INBOX}"
    yield f"release   {_text(clients.s3, bucket, CURRENT) or 'none is uploaded: run `cxr deploy`'}"
    yield from _host(name, state, clients, bucket)
    counts = ", ".join(f"{count} {word}" for word, count in _depth(clients.sqs, f"{name}-jobs").items())
    yield f"jobs      {counts}; the oldest has waited for {_oldest(clients.cloudwatch, name)}"
    dead = {queue: sum(_depth(clients.sqs, f"{name}-{queue}").values()) for queue in _DEAD}
    yield f"dead      {', '.join(f'{count} {_DEAD[queue]}' for queue, count in dead.items())}"
    yield "verdicts"
    yield from (f"  {line}" for line in _last_verdicts(clients.s3, bucket, verdicts))


def _host(name: str, state: StackState, clients: Clients, bucket: str) -> Iterator[str]:
    item = clients.dynamodb.get_item(TableName=f"{name}-lease", Key={"id": {"S": "host"}}).get("Item", {})
    instance = item.get("instance_id", {}).get("S")
    if instance is None:
        yield "host      none; the next job launches one"
        return
    yield f"host      {instance}: {_instance(clients.ec2, instance)}"
    place = f"{_HOSTS}{state.outputs['HostRoleId']}:{instance}/"
    status = _json(_text(clients.s3, bucket, f"{place}status.json"))
    if status:
        release = status.get("release", {}).get("number")
        yield (
            f"worker    {status.get('state')} at {_short(status.get('at'))}, release {release},"
            f" {status.get('active')} at work, {status.get('jobs_a_minute')} in the last minute,"
            f" last job {_short(status.get('last_job_at'))}"
        )
        if status.get("last_error"):
            yield f"          last error: {status['last_error']}"
    failed = _text(clients.s3, bucket, f"{place}update-failed.txt")
    if failed:
        yield f"          its update failed: {failed}"
    yield f"          log: s3://{bucket}/{place}log.txt"


def _instance(ec2: Any, instance: str) -> str:
    try:
        found = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    except (ClientError, IndexError):
        return "gone; the next job launches another"
    return f"{found['State']['Name']}, {found['InstanceType']}, started {_short(str(found['LaunchTime']))}"


def _depth(sqs: Any, queue: str) -> dict[str, int]:
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(_COUNTS))["Attributes"]
    return {word: int(found[name]) for name, word in _COUNTS.items()}


def _oldest(cloudwatch: Any, stack: str) -> str:
    """By our own metric: SQS leaves those out that wait for a host."""
    now = datetime.now(UTC)
    found = cloudwatch.get_metric_statistics(
        Namespace="CXRInbox",
        MetricName="OldestWaitingSeconds",
        Dimensions=[{"Name": "service", "Value": stack}],
        StartTime=now - timedelta(minutes=15),
        EndTime=now,
        Period=60,
        Statistics=["Maximum"],
    )
    points = sorted(found["Datapoints"], key=lambda point: point["Timestamp"])
    return f"{points[-1]['Maximum']:.0f} s" if points else "no time that was measured lately"


def _last_verdicts(s3: Any, bucket: str, count: int) -> Iterator[str]:
    names: list[tuple[datetime, str]] = []
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket,
        Prefix=OUTBOX,
        StartAfter=_AFTER_PREVIEWS,
        PaginationConfig={"MaxItems": 1000 * _PAGES},
    )
    for page in pages:
        names += [
            (item["LastModified"], item["Key"])
            for item in page.get("Contents", [])
            if is_verdict(item["Key"])
        ]
    for modified, key in sorted(names, reverse=True)[:count]:
        yield f"{_short(modified.isoformat())}  {_verdict(_text(s3, bucket, key) or '', key)}"
    if not names:
        yield "none yet"
    elif pages.resume_token:
        yield f"(of the first {1000 * _PAGES}; the page shows all: cxr up --bucket {bucket})"


def _verdict(text: str, key: str) -> str:
    try:
        return verdict_line(Verdict.from_json(text.encode()))
    except ValueError:
        return f"{key}: not to be read as a verdict"


def _text(s3: Any, bucket: str, key: str) -> str | None:
    try:
        body: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None
        raise
    return body.decode(errors="replace").strip()


def _json(text: str | None) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _short(time: object) -> str:
    return str(time or "never")[:19].replace("T", " ")
