"""How a stack is, in lines for a person: `cxr status`."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from ec2_runner.reach.fleet import Fleet
from ec2_runner.reach.lease import Lease
from ec2_runner.reach.observe import Observer
from ec2_runner.stack.clients import Clients
from ec2_runner.stack.cloudformation import StackState
from ec2_runner.stack.upload import CURRENT
from pipeline.classify import line as verdict_line
from pipeline.names import INBOX, OUTBOX, is_verdict
from pipeline.store.s3 import S3Store
from pipeline.verdict import Verdict

_AFTER_PREVIEWS = OUTBOX + ".previews0"  # "0" follows "/"
_PAGES = 10  # of 1,000 names each, that are looked through for the last verdicts
_DEAD = {"jobs-dead": "jobs", "verdicts-dead": "verdicts that the worklist could not take"}


def report(name: str, state: StackState, clients: Clients, verdicts: int = 5) -> Iterator[str]:
    """The lines. They show names of files."""
    bucket = state.parameters["BucketName"]
    fleet = Fleet(clients.ec2, Lease(f"{name}-lease", clients.dynamodb), name, [])
    seen = Observer(name, fleet, S3Store(bucket, clients.s3), clients.sqs, clients.cloudwatch)
    yield f"stack     {name} in {clients.region}: {state.status}"
    yield f"inbox     s3://{bucket}/{INBOX}"
    yield f"release   {_text(clients.s3, bucket, CURRENT) or 'none is uploaded: run `cxr deploy`'}"
    yield from _host(seen, clients.s3, bucket)
    counts = ", ".join(f"{count} {word}" for word, count in seen.depth("jobs").items())
    wait = seen.wait(datetime.now(UTC))
    oldest = f"{wait.seconds:.0f} s" if wait else "no time that was measured lately"
    yield f"jobs      {counts}; the oldest has waited for {oldest}"
    dead = {queue: sum(seen.depth(queue).values()) for queue in _DEAD}
    yield f"dead      {', '.join(f'{count} {_DEAD[queue]}' for queue, count in dead.items())}"
    yield "verdicts"
    yield from (f"  {line}" for line in _last_verdicts(clients.s3, bucket, verdicts))


def _host(seen: Observer, s3: Any, bucket: str) -> Iterator[str]:
    instance = seen.instance()
    if instance is None:
        yield "host      none; the next job launches one"
        return
    if instance.state == "terminated":
        yield f"host      {instance.id}: gone; the next job launches another"
        return
    started = _short(datetime.fromtimestamp(instance.launched_at, UTC))
    yield f"host      {instance.id}: {instance.state}, {instance.type}, started {started}"
    status, place = seen.status(instance), seen.place(instance)
    if status:
        yield (
            f"worker    {status.state} at {_short(status.at)}, release {status.release.number},"
            f" {status.active} at work, {status.jobs_a_minute} in the last minute,"
            f" last job {_short(status.last_job_at)}"
        )
        if status.last_error:
            yield f"          last error: {status.last_error}"
    if place:
        failed = _text(s3, bucket, f"{place}update-failed.txt")
        if failed:
            yield f"          its update failed: {failed}"
        yield f"          log: s3://{bucket}/{place}log.txt"


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
        yield f"{_short(modified)}  {_verdict(_text(s3, bucket, key) or '', key)}"
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


def _short(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else "never"
