"""Takes a stack down: its hosts first, which hold its network, then the rest; X-rays only on demand."""

import time
from typing import Any

from ec2_runner.stack.clients import Clients
from ec2_runner.stack.cloudformation import Stack, StackState
from ec2_runner.stack.deploy import default_bucket
from ec2_runner.stack.display import Display
from ec2_runner.stack.instances import terminate_hosts, wait_gone
from ec2_runner.stack.notifications import remove_notifications
from ec2_runner.stack.upload import artifact_bucket, has_bucket
from pipeline.errors import StackError
from pipeline.names import INBOX, OUTBOX

_SYSTEM = "system/"
_MAPPING_SECONDS = 180.0  # longer than an invocation lasts
_LOOK_SECONDS = 2.0


def bucket_of(stack: Stack, clients: Clients) -> str | None:
    """The bucket of a stack, also of one that is gone; None where there is none."""
    state = stack.read()
    bucket = state.parameters["BucketName"] if state else default_bucket(stack.name, clients)
    return bucket if has_bucket(clients, bucket) else None


def destroy(stack: Stack, clients: Clients, everything: bool, display: Display) -> None:
    """Take a stack down. Inbox and outbox stay in their bucket, unless `everything` goes. Safe to repeat."""
    state, bucket = stack.read(), bucket_of(stack, clients)
    if state:
        _stop_work(state, clients)
        with display.at_work("ending the hosts"):
            terminate_hosts(clients.ec2, stack.name)
            wait_gone(clients.ec2, stack.name)
        if bucket:
            queues = {state.outputs.get(name, "") for name in ("JobsQueueArn", "VerdictsQueueArn")}
            remove_notifications(clients.s3, bucket, queues)
        with display.at_work("deleting the stack"):
            stack.delete()
    else:
        display.say(f"there is no stack {stack.name} in {clients.region}")
    if bucket:
        made = bucket == default_bucket(stack.name, clients) or _was_made(state)
        _empty_bucket(clients.s3, bucket, everything, made, display)
    artifacts = artifact_bucket(stack.name, clients)
    if has_bucket(clients, artifacts):
        empty(clients.s3, artifacts, "")
        clients.s3.delete_bucket(Bucket=artifacts)


def empty(s3: Any, bucket: str, prefix: str) -> int:
    """Delete all objects under a prefix, every version of them; returns how many versions those were."""
    count = 0
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        versions = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if versions:
            objects = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in versions]
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                code = answer["Errors"][0]["Code"]
                raise StackError(f"S3 did not delete {len(answer['Errors'])} objects of {bucket}: {code}")
        count += len(versions)
    return count


def _stop_work(state: StackState, clients: Clients) -> None:
    """Have the queue wait, so that no handler launches another host meanwhile."""
    function = state.outputs.get("IngestFunctionName")
    if function is None:  # of a stack that was never finished
        return
    found = clients.functions.list_event_source_mappings(FunctionName=function)
    for mapping in found["EventSourceMappings"]:
        clients.functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        deadline = time.monotonic() + _MAPPING_SECONDS  # an invocation at work could still launch a host
        while mapping["State"] != "Disabled" and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            mapping = clients.functions.get_event_source_mapping(UUID=mapping["UUID"])


def _was_made(state: StackState | None) -> bool:
    return state is not None and state.parameters["CreateBucket"] == "true"


def _empty_bucket(s3: Any, bucket: str, everything: bool, made: bool, display: Display) -> None:
    prefixes = (INBOX, OUTBOX, _SYSTEM) if everything else (_SYSTEM,)
    with display.at_work(f"emptying {', '.join(prefixes)} of {bucket}"):
        count = sum(empty(s3, bucket, prefix) for prefix in prefixes)
    display.say(f"deleted {count} versions of objects")
    if not everything:
        display.say(f"inbox and outbox stay in s3://{bucket}; `cxr deploy` takes them up again")
    elif made and not s3.list_objects_v2(Bucket=bucket, MaxKeys=1).get("KeyCount"):
        s3.delete_bucket(Bucket=bucket)
        display.say(f"deleted the bucket {bucket}")
    else:
        display.say(f"the bucket {bucket} stays: it was there before, or has other objects")
