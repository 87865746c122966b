"""Describe a stack in lines for a person: `cxr status`."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from ec2_runner.reach.fleet import Instance
from ec2_runner.reach.identity import READY
from ec2_runner.reach.monitor import host_status
from ec2_runner.reach.observe import Observer
from ec2_runner.stack.cloudformation import StackState
from ec2_runner.stack.upload import current_release, released
from pipeline.aws.errors import AwsRefused, ask
from pipeline.classify import line
from pipeline.errors import ObjectTooLarge, StoreError
from pipeline.names import INBOX
from pipeline.store.s3 import S3Store
from pipeline.verdict import Verdict
from pipeline.worklist.dynamodb import DynamoIndex

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

_VERDICTS = 5  # lines
_CONSOLE, _COLUMNS = 20, 200  # the last lines of a host's console, and characters of each
# Colours and movements of the cursor. ECMA-48 names the bytes.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_NAME_SHOWN = 40  # characters of a release's name, which ends in a long hash
_PAGE = 100  # changes of the worklist that are searched for them
_CLOCKS_APART = timedelta(minutes=1)  # a writer's clock may be ahead of ours
_TEXT_LIMIT, _VERDICT_LIMIT = 100_000, 1 << 20  # bytes


def report(
    state: StackState,
    region: str,
    store: S3Store,
    artifacts: S3Store | None,  # of a stack that has an artifact bucket
    index: DynamoIndex,
    seen: Observer,
    ec2: "EC2Client",
) -> Iterator[str]:
    """Yield the lines, which show names of files."""
    names, bucket = seen.names, store.bucket
    yield f"stack     {names.stack} in {region}: {state.status}"
    yield f"inbox     s3://{bucket}/{INBOX}"
    current, functions = current_release(artifacts) if artifacts else None, released(state)
    yield f"release   {current[:_NAME_SHOWN] if current else 'none is uploaded: run `cxr deploy`'}"
    if current and functions and current != functions:
        short = functions[:_NAME_SHOWN]
        yield f"          the functions have release {short}: `cxr deploy` was interrupted, run it again"
    yield from _hosts(seen, store, ec2)
    counts = ", ".join(f"{count} {word}" for word, count in seen.depth(names.jobs).items())
    wait = seen.wait(datetime.now(UTC))
    oldest = f"the oldest has waited {wait.seconds:.0f} s" if wait else "no wait measured recently"
    yield f"jobs      {counts}; {oldest}"
    dead = {
        "jobs": sum(seen.depth(names.dead_jobs).values()),
        "verdicts not written to the worklist": sum(seen.depth(names.dead_verdicts).values()),
    }
    yield f"dead      {', '.join(f'{count} {word}' for word, count in dead.items())}"
    yield "verdicts"
    yield from (f"  {verdict}" for verdict in _last_verdicts(store, index))


def _hosts(seen: Observer, store: S3Store, ec2: "EC2Client") -> Iterator[str]:
    instances = seen.instances()
    if not instances:
        yield "host      none; the next job launches one"
    for instance in instances:
        yield from _one_host(instance, seen, store, ec2)


def _one_host(instance: Instance, seen: Observer, store: S3Store, ec2: "EC2Client") -> Iterator[str]:
    started = _short(datetime.fromtimestamp(instance.launched_at, UTC))
    kind = f"{instance.type} Spot" if instance.is_spot else instance.type
    yield f"host      {instance.id}: {instance.state}, {kind}, started {started}"
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
        failed = _text(store, f"{place}update-failed.txt")
        if failed:
            yield f"          its update failed: {failed}"
        yield f"          log: s3://{store.bucket}/{place}log.txt"
    reports = host_status(instance, status, datetime.now(UTC)).state not in ("starting", "unknown")
    if instance.state == "running" and not (reports and store.head(f"{place}{READY}")):
        yield "console   (the host is installing, or does not report)"
        yield from (f"  {text}" for text in _console(ec2, instance))


def _console(ec2: "EC2Client", instance: Instance) -> Iterator[str]:
    """Yield the last lines of what a host wrote to its console, printable characters alone."""
    try:
        try:
            found = ask("EC2", ec2.get_console_output, InstanceId=instance.id, Latest=True)
        except AwsRefused as error:
            if error.code != "UnsupportedOperation":  # types that are not on Nitro
                raise
            found = ask("EC2", ec2.get_console_output, InstanceId=instance.id)
    except StoreError as error:
        yield f"unknown: {error}"
        return
    lines = [_printable(text) for text in re.split(r"[\r\n]+", found.get("Output", ""))]
    yield from [text for text in lines if text][-_CONSOLE:] or ["nothing yet"]


def _printable(text: str) -> str:
    shown = "".join(letter for letter in _ESCAPE.sub("", text) if letter.isprintable())
    return shown[:_COLUMNS].rstrip()


def _last_verdicts(store: S3Store, index: DynamoIndex) -> Iterator[str]:
    """Yield a line for each of the last verdicts, the latest first, from the worklist's feed."""
    changes = index.latest_changes(datetime.now(UTC) + _CLOCKS_APART, _PAGE)
    rows = [change.row for change in islice(changes, _PAGE) if change.row and change.row.verdict_key]
    for row in rows[:_VERDICTS]:
        assert row.verdict_key is not None
        yield f"{_short(row.finished_at)}  {_verdict(store, row.verdict_key)}"
    if not rows:
        yield "none lately"


def _verdict(store: S3Store, key: str) -> str:
    try:
        found = store.get(key, _VERDICT_LIMIT)
        return line(Verdict.from_json(found[1])) if found else f"{key}: deleted"
    except (ValueError, ObjectTooLarge):
        return f"{key}: unreadable"


def _text(store: S3Store, key: str) -> str | None:
    found = store.get(key, _TEXT_LIMIT)
    return found[1].decode(errors="replace").strip() if found else None


def _short(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else "never"
