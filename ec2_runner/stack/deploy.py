"""Create a stack, or bring it to the release of this checkout, without losing a job on the way.

A new stack does not take jobs before its release is uploaded. An existing one gets the release first, then
the functions that send its jobs. A host that still runs the old release refuses those: they wait in the
queue, and the host updates itself.

`releases/current`, by which hosts update themselves, follows the functions: their release is an output
of the stack. It goes back only when the stack is seen to be back, never while CloudFormation is at work.
"""

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ec2_runner.reach.fleet import Fleet
from ec2_runner.stack.cloudformation import CloudFormationStack, StackState
from ec2_runner.stack.cost import HOST_TYPES
from ec2_runner.stack.destroy import end_hosts
from ec2_runner.stack.display import Display
from ec2_runner.stack.kept import check_settings, kept_note
from ec2_runner.stack.notifications import add_notifications
from ec2_runner.stack.release import ARCHITECTURES, Architecture, Bundle, architecture_of
from ec2_runner.stack.surroundings import check_key, key_notes, s3_prefix_list
from ec2_runner.stack.upload import (
    OLD_RELEASES,
    current_release,
    has_bucket,
    prepare_artifacts,
    prune,
    release_files,
    released,
    set_current,
    total_size,
    upload_artifacts,
    upload_release,
)
from pipeline.aws.clients import Aws
from pipeline.aws.errors import ask
from pipeline.aws.names import ARTIFACTS, StackNames
from pipeline.errors import StackGoesOn, StoreError, UsageError
from pipeline.store.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEFAULT_TYPE, DEFAULT_IDLE_MINUTES = "t3.medium", 20.0
_NETWORK = "NetworkPrefix"  # parameter of the template
_FUNCTIONS = "FunctionArchitecture"  # parameter of the template, and its default there
_DEFAULT_FUNCTIONS: Architecture = "x86_64"
_ALLOWED = {"MaximumConcurrency": (2, 8), "MaxHosts": (1, 5)}  # as in the template
_CONCURRENCY, _HOSTS = ("MaximumConcurrency", "2"), ("MaxHosts", "1")  # the same
_LOG_KEY = "LogKey"  # parameter of the template that CloudFormation does not show; an older stack lacks it
_INSTEAD = {  # parameters that have an option of their own, which is read for more than the template
    "BucketName": "use --bucket or --existing-bucket",
    "CreateBucket": "use --bucket or --existing-bucket",
    "InstanceType": "use --instance-type",
    "NotificationEmail": "use --email",
    "IdleMinutes": "use --idle-minutes",
    "RetentionDays": "use --retention-days",
    "EventMapping": "leave it out, deploy sets it",
}
_MENDED = "its failed creation is deleted, or its failed rollback continued, first"
_ENDS_HOSTS = (
    "another NetworkPrefix replaces the network: the deliveries stop and all hosts are ended first; X-rays"
    " wait in the queue until the new network is there"
)
_WAITING = "the queue's deliveries are stopped: X-rays wait in it until `cxr deploy` succeeds, so repeat it"
_RESUMED = "the network did not change; the queue's deliveries go on in the old one"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")  # bucket names begin with it, and have at most 63 characters


@dataclass(frozen=True)
class DeployOptions:
    """Hold the user's options; None leaves an existing stack as it is."""

    stack: str
    bucket: str | None = None  # to be created
    existing_bucket: str | None = None
    instance_type: str | None = None
    email: str | None = None
    idle_minutes: float | None = None
    retention_days: int | None = None
    new_image: bool = False  # of Amazon Linux, for the hosts
    more: dict[str, str] = field(default_factory=dict)  # other parameters of the template


@dataclass(frozen=True)
class Plan:
    """Describe what deploying these options will do."""

    stack: str
    bucket: str
    makes_bucket: bool
    instance_type: str
    idle_minutes: float
    functions: Architecture
    concurrency: int  # batches of X-rays
    hosts: int  # at most, at a time
    before: StackState | None
    parameters: dict[str, str] = field(default_factory=dict, repr=False)  # one of them is a secret
    notes: tuple[str, ...] = ()  # what a person should know before agreeing
    spot: bool = False

    @property
    def changes_network(self) -> bool:
        """Return whether CloudFormation replaces the network, which it cannot while hosts are in it."""
        if self.before is None or _NETWORK not in self.parameters:
            return False
        return self.parameters[_NETWORK] != self.before.parameters.get(_NETWORK)

    @property
    def changes_type(self) -> bool:
        """Return whether hosts of another type may exist."""
        return self.before is not None and self.before.parameters.get("InstanceType") != self.instance_type


def check_options(options: DeployOptions) -> None:
    """Raise UsageError for options that no stack can have."""
    if not _NAME.fullmatch(options.stack):
        raise UsageError("--stack has to be 1 to 20 lower-case letters, digits and hyphens, a letter first")
    if options.stack.endswith(ARTIFACTS):
        raise UsageError(f"--stack may not end in {ARTIFACTS}: the buckets of releases are named so")
    if options.bucket and options.existing_bucket:
        raise UsageError("--bucket creates a bucket, --existing-bucket uses one: name only one of them")
    for name, instead in _INSTEAD.items():
        if name in options.more:
            raise UsageError(f"the parameter {name} cannot be given by itself: {instead}")
    if options.instance_type and options.instance_type not in HOST_TYPES:
        raise UsageError(f"--instance-type {options.instance_type} is none of: {', '.join(HOST_TYPES)}")
    _functions(options.more)
    _count(options.more, *_CONCURRENCY)
    hosts_of(options.more)


def hosts_of(parameters: dict[str, str]) -> int:
    """Return how many hosts a stack has at most; raise UsageError when that is no number."""
    return _count(parameters, *_HOSTS)


def is_spot(parameters: dict[str, str]) -> bool:
    """Return whether the hosts are Spot Instances where there are any."""
    return parameters.get("Spot") == "true"


def make_plan(options: DeployOptions, aws: Aws, stack: CloudFormationStack) -> Plan:
    """Look at the current state, and plan the changes; raise UsageError when the options do not fit it.

    Waits until no operation runs on the stack, and changes nothing.
    """
    check_options(options)
    if options.existing_bucket and not has_bucket(aws, options.existing_bucket):
        raise UsageError(f"there is no bucket {options.existing_bucket}; --bucket creates one")
    found = stack.rested()
    before = None if found and found.was_never_made else found
    known = before.parameters if before else {}
    bucket, makes_bucket = _bucket(options, aws, before)
    wanted = {**known, **options.more}
    if not makes_bucket:
        check_key(aws, bucket, wanted.get("KmsKeyArn", ""))
    given = {
        "InstanceType": options.instance_type or (None if before else DEFAULT_TYPE),
        "NotificationEmail": options.email,
        "IdleMinutes": f"{options.idle_minutes:g}" if options.idle_minutes else None,
        "RetentionDays": options.retention_days,
        _LOG_KEY: None if _LOG_KEY in known else secrets.token_hex(24),
        "PinnedAmi": _image(options, before),
        "S3PrefixList": wanted.get("S3PrefixList") or s3_prefix_list(aws),
        **options.more,
        "BucketName": bucket,
        "CreateBucket": str(makes_bucket).lower(),
    }
    parameters = {name: str(value) for name, value in given.items() if value is not None}
    notes = list(key_notes(aws, wanted.get("KmsKeyArn", "")))
    notes += [f"the stack is in {found.status}: {_MENDED}"] if found and not found.is_sound else []
    if not makes_bucket:
        check_settings(aws.client("s3"), bucket, parameters)
        notes.append(kept_note(bucket))
    plan = Plan(
        options.stack,
        bucket,
        makes_bucket,
        options.instance_type or known.get("InstanceType", DEFAULT_TYPE),
        options.idle_minutes or float(known.get("IdleMinutes", DEFAULT_IDLE_MINUTES)),
        _functions(wanted),
        _count(wanted, *_CONCURRENCY),
        hosts_of(wanted),
        before,
        parameters,
        tuple(notes),
        is_spot(wanted),
    )
    return replace(plan, notes=(*notes, _ENDS_HOSTS)) if plan.changes_network else plan


def carry_out(
    plan: Plan,
    aws: Aws,
    stack: CloudFormationStack,
    fleet: Fleet,
    build: Callable[[Architecture, Architecture], Bundle],  # for these hosts and functions
    display: Display,
) -> None:
    """Carry out the plan. Safe to repeat, also after a failure or an interruption in the middle.

    Raises StackGoesOn where CloudFormation goes on.
    """
    s3 = aws.client("s3")
    artifacts = StackNames(plan.stack).artifacts(aws.account, aws.region)
    prepare_artifacts(aws, artifacts)
    state = stack.ready()
    if state:
        _follow_functions(s3, artifacts, state, None, display)
    with display.at_work("building the release"):
        release = build(architecture_of(plan.instance_type), plan.functions)
    parameters = {**plan.parameters, "Release": release.name}
    with display.bytes("uploading the functions", total_size([release.package])) as advance:
        template = upload_artifacts(s3, artifacts, aws.region, release, advance)
    if state is None:
        with display.at_work("making the stack"):
            stack.apply(template, {**parameters, "EventMapping": "false"})
    before = current_release(S3Store(artifacts, s3))
    try:
        with display.bytes("uploading the release", total_size(release_files(release))) as advance:
            upload_release(s3, artifacts, release, advance)
        if not plan.makes_bucket:
            _notify(plan, s3, stack)
        with (
            _hosts_ended(plan, template, parameters, stack, fleet, display),
            display.at_work("bringing the stack up to date"),
        ):
            applied = stack.apply(template, {**parameters, "EventMapping": "true"})
    except StackGoesOn:
        raise  # the functions may be of either release by the time that a person reads this
    except BaseException:
        with suppress(StoreError):  # the next deploy does it
            if state := stack.read():
                _follow_functions(s3, artifacts, state, before, display)
        raise
    old_releases = S3Store(plan.bucket, s3)
    is_older = any(old_releases.list(OLD_RELEASES))
    why = "takes its releases from the artifact bucket" if is_older else "has the new type"
    types = (plan.instance_type, *HOST_TYPES[plan.instance_type].substitutes)
    for host in fleet.instances():
        # An interrupted deploy may have changed the type.
        if plan.changes_type or is_older or host.type not in types:
            fleet.terminate(host)
            display.say(f"ended the host {host.id}: the next one {why}")
    if is_older:  # last, so that a deploy that breaks off before is repeated as a whole
        old_releases.empty(OLD_RELEASES)
    prune(S3Store(artifacts, s3), release, before, template)
    _tell_image(plan, applied, display)


@contextmanager
def _hosts_ended(
    plan: Plan,
    template: str,
    parameters: dict[str, str],
    stack: CloudFormationStack,
    fleet: Fleet,
    display: Display,
) -> Iterator[None]:
    """Have no host in the network during a `with` block that replaces it, and nobody who launches one.

    If that breaks off, the deliveries begin again in the old network where the stack can be changed.
    """
    if not plan.changes_network:
        yield
        return
    try:
        with display.at_work("ending the hosts, since the network changes"):
            others = {name: value for name, value in parameters.items() if name != _NETWORK}
            stack.apply(template, {**others, "EventMapping": "false"})
    except StackGoesOn:
        display.say(_WAITING)
        raise
    try:
        end_hosts(fleet)
        yield
    except BaseException as error:
        resumed = not isinstance(error, StackGoesOn | KeyboardInterrupt) and _resumed(stack, template)
        display.say(_RESUMED if resumed else _WAITING)
        raise


def _resumed(stack: CloudFormationStack, template: str) -> bool:
    """Have the queue deliver jobs again, and change nothing else; return whether that was possible."""
    try:
        stack.apply(template, {"EventMapping": "true"})
    except (Exception, KeyboardInterrupt):  # noqa: BLE001  the first error is the one to tell
        return False
    return True


def _image(options: DeployOptions, before: StackState | None) -> str:
    """Return the public AMI that the stack keeps; "" for the newest one."""
    if before is None:
        return ""
    own = {**before.parameters, **options.more}.get("Ami", "")
    if own and options.new_image:
        raise UsageError(
            f"the hosts have an image of your own, {own}: name another with --parameter Ami=ami-..., or"
            " return to Amazon Linux's with --parameter Ami="
        )
    kind = before.parameters.get("InstanceType", DEFAULT_TYPE)
    is_other_kind = architecture_of(options.instance_type or kind) != architecture_of(kind)
    if options.new_image or is_other_kind or before.parameters.get("Ami"):
        return ""
    return before.outputs.get("Image", "")


def _tell_image(plan: Plan, state: StackState, display: Display) -> None:
    """Say that the hosts' image changed, or could."""
    image, before = state.outputs.get("Image"), plan.before.outputs.get("Image") if plan.before else None
    if before and image != before:
        display.say(
            f"new hosts have the image {image}; --parameter PinnedAmi={before} returns to the one before"
        )
    elif image != state.outputs.get("NewestImage") and not state.parameters.get("Ami"):
        display.say("there is a newer image of Amazon Linux: `cxr deploy --new-image` gives it to new hosts")


def _follow_functions(
    s3: "S3Client", artifacts: str, state: StackState, before: str | None, display: Display
) -> None:
    """Have hosts install the release of the functions, or `before` where the stack does not name it.

    Does nothing unless the stack is as an operation left it, and hosts have had a release.
    """
    name, current = released(state) or before, current_release(S3Store(artifacts, s3))
    if state.is_sound and name and current and name != current:
        ask("S3", set_current, s3, artifacts, name)
        display.say(f"hosts install release {name} again, which is that of the functions")


def _count(parameters: dict[str, str], name: str, default: str) -> int:
    """Return a parameter that is a whole number; raise UsageError when it is none of those allowed."""
    named = str(parameters.get(name, default))
    low, high = _ALLOWED[name]
    if named not in {str(number) for number in range(low, high + 1)}:
        raise UsageError(f"{name}={named}: it is a whole number from {low} to {high}")
    return int(named)


def _functions(parameters: dict[str, str]) -> Architecture:
    """Return the architecture of the functions; raise UsageError when Lambda has no such one."""
    named = parameters.get(_FUNCTIONS, _DEFAULT_FUNCTIONS)
    for known in ARCHITECTURES:
        if named == known:
            return known
    raise UsageError(f"{_FUNCTIONS}={named}: it is {' or '.join(ARCHITECTURES)}")


def _bucket(options: DeployOptions, aws: Aws, before: StackState | None) -> tuple[str, bool]:
    """Return the bucket, and whether the stack creates it; one that an earlier stack left is used again."""
    named = options.bucket or options.existing_bucket
    if before:
        bucket = before.parameters["BucketName"]
        if named not in (None, bucket):
            raise UsageError(f"the stack has the bucket {bucket}: for another one, name another --stack")
        return bucket, before.parameters["CreateBucket"] == "true"
    bucket = named or StackNames(options.stack).bucket(aws.account, aws.region)
    if bucket.endswith(f"{ARTIFACTS}-{aws.account}-{aws.region}"):
        raise UsageError(f"the bucket {bucket} is for the releases of a stack, not for X-rays: name another")
    exists = has_bucket(aws, bucket)
    if exists and options.bucket:
        raise UsageError(
            f"the bucket {bucket} exists already: --existing-bucket {bucket} uses it, or "
            "create_bucket = false in cxr.toml"
        )
    return bucket, not exists


def _notify(plan: Plan, s3: "S3Client", stack: CloudFormationStack) -> None:
    state = stack.read()
    assert state is not None  # just created, or seen when planning
    add_notifications(s3, plan.bucket, state.outputs["JobsQueueArn"], state.outputs["VerdictsQueueArn"])
