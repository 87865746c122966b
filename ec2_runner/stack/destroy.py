"""Delete a stack: first its hosts, which hold its network, then the rest; X-rays only on request."""

import time
from collections.abc import Callable

from ec2_runner.reach.fleet import Fleet
from ec2_runner.stack.cloudformation import CloudFormationStack, StackState
from ec2_runner.stack.display import Display
from ec2_runner.stack.notifications import remove_notifications
from ec2_runner.stack.upload import DEPLOYED, delete_if_empty, has_bucket
from pipeline.aws.clients import Aws
from pipeline.aws.names import StackNames
from pipeline.errors import StackError
from pipeline.names import INBOX, OUTBOX
from pipeline.store.s3 import S3Store

_SYSTEM = "system/"
_MAPPING_SECONDS = 180.0  # longer than an invocation lasts
_LOOK_SECONDS = 2.0
_HOST_SECONDS, _HOST_LOOK_SECONDS = 600.0, 5.0


def bucket_of(stack: CloudFormationStack, aws: Aws) -> str | None:
    """Return the bucket of a stack, also of one that is gone; None where there is none."""
    state = stack.read()
    bucket = state.parameters["BucketName"] if state else _default_bucket(stack, aws)
    return bucket if has_bucket(aws, bucket) else None


def destroy_stack(
    stack: CloudFormationStack, aws: Aws, fleet: Fleet, everything: bool, display: Display
) -> None:
    """Delete a stack; inbox and outbox stay in their bucket unless `everything` is set. Safe to repeat."""
    state, bucket = stack.read(), bucket_of(stack, aws)
    if state:
        if state.status != "DELETE_IN_PROGRESS":
            _stop_work(state, aws)
        with display.at_work("ending the hosts"):
            end_hosts(fleet)
        if bucket:
            queues = {state.outputs.get(name, "") for name in ("JobsQueueArn", "VerdictsQueueArn")}
            remove_notifications(aws.client("s3"), bucket, queues)
        with display.at_work("deleting the stack"):
            stack.delete()
    else:
        stack.delete()  # one that was only planned, by a deploy that was interrupted
        display.say(f"there is no stack {stack.name} in {aws.region}")
    if bucket:
        made = bucket == _default_bucket(stack, aws) or _was_made(state)
        _empty_bucket(aws, bucket, everything, made, display)
    artifacts = StackNames(stack.name).artifacts(aws.account, aws.region)
    if has_bucket(aws, artifacts):
        _delete_artifacts(aws, artifacts, display)


def end_hosts(
    fleet: Fleet,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """End all hosts for good and wait until they are gone, because they hold the stack's network.

    Their jobs are delivered again. Raises StackError when a host does not end within ten minutes.
    """
    until = now() + _HOST_SECONDS
    while left := fleet.instances(shutting_down=True):
        for host in left:
            if host.state != "shutting-down":  # also one that a function has just launched
                fleet.terminate(host)
        if now() > until:
            names = ", ".join(host.id for host in left)
            raise StackError(f"these hosts do not end: {names}; end them in the EC2 console")
        sleep(_HOST_LOOK_SECONDS)


def _default_bucket(stack: CloudFormationStack, aws: Aws) -> str:
    return StackNames(stack.name).bucket(aws.account, aws.region)


def _stop_work(state: StackState, aws: Aws) -> None:
    """Stop the queue's deliveries, so that no handler launches another host meanwhile."""
    function = state.outputs.get("IngestFunctionName")
    if function is None:  # the stack was never completed
        return
    functions = aws.client("lambda")
    found = functions.list_event_source_mappings(FunctionName=function)
    for mapping in found["EventSourceMappings"]:
        number, state_now = mapping["UUID"], mapping["State"]
        functions.update_event_source_mapping(UUID=number, Enabled=False)
        deadline = time.monotonic() + _MAPPING_SECONDS  # a running invocation could still launch a host
        while state_now != "Disabled" and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            state_now = functions.get_event_source_mapping(UUID=number)["State"]


def _was_made(state: StackState | None) -> bool:
    return state is not None and state.parameters["CreateBucket"] == "true"


def _empty_bucket(aws: Aws, bucket: str, everything: bool, made: bool, display: Display) -> None:
    s3 = aws.client("s3")
    prefixes = (INBOX, OUTBOX, _SYSTEM) if everything else (_SYSTEM,)
    with display.at_work(f"emptying {', '.join(prefixes)} of {bucket}"):
        count = sum(S3Store(bucket, s3).empty(prefix) for prefix in prefixes)
    display.say(f"deleted {count} versions of objects")
    if not everything:
        display.say(f"inbox and outbox stay in s3://{bucket}; `cxr deploy` uses them again")
    elif made and delete_if_empty(s3, bucket):
        display.say(f"deleted the bucket {bucket}")
    else:
        display.say(f"the bucket {bucket} stays: it existed before, or holds other objects")


def _delete_artifacts(aws: Aws, bucket: str, display: Display) -> None:
    """Delete what deploys wrote into the artifact bucket, and the bucket if it held nothing else."""
    s3 = aws.client("s3")
    for prefix in DEPLOYED:
        S3Store(bucket, s3).empty(prefix)
    if not delete_if_empty(s3, bucket):
        display.say(f"the artifact bucket {bucket} stays: it holds objects that no deploy wrote")
