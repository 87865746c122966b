"""Run `cxr deploy`, `status` and `destroy`. The AWS library is imported when a command runs."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr.options import begin
from pipeline.errors import CxrError, StackError, StoreError, UsageError

if TYPE_CHECKING:
    from ec2_runner.stack.deploy import DeployOptions, Plan
    from ec2_runner.stack.display import Display
    from pipeline.aws.clients import Aws
    from pipeline.settings import Settings

_StackOption = Annotated[
    str | None, typer.Option("--stack", help="Name of the stack (default: cxr-inbox, or CXR_STACK).")
]
_RegionOption = Annotated[
    str | None, typer.Option(help="AWS region (default: the one in your AWS configuration).")
]
_YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


def deploy_command(
    stack: _StackOption = None,
    region: _RegionOption = None,
    bucket: Annotated[
        str | None, typer.Option(help="Name of the bucket to create (default: STACK-ACCOUNT-REGION).")
    ] = None,
    existing_bucket: Annotated[
        str | None, typer.Option(help="Name of an existing bucket to use instead.")
    ] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="EC2 type of the hosts (default: t3.medium, or unchanged).")
    ] = None,
    email: Annotated[str | None, typer.Option(help="Mail address that gets the alarms.")] = None,
    idle_minutes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Minutes without a job before a host powers off (default: 20, or unchanged)."
        ),
    ] = None,
    retention_days: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Days until X-rays and verdicts are deleted; 0 keeps them (default: 0, or unchanged).",
        ),
    ] = None,
    new_image: Annotated[
        bool,
        typer.Option(
            "--new-image", help="Give new hosts the newest image of Amazon Linux (default: unchanged)."
        ),
    ] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for another parameter of template.yaml, such as Ami. May be repeated."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would change, its cost and missing permissions; change nothing."
        ),
    ] = False,
    yes: _YesOption = False,
) -> None:
    """Create the AWS stack, or update it to the release of this checkout. Safe to repeat.

    Keep options that you give each time in cxr.toml instead. After Ctrl-C, the same command goes on.
    """
    from ec2_runner.stack.cloudformation import CloudFormationStack
    from ec2_runner.stack.deploy import carry_out, check_options, make_plan
    from ec2_runner.stack.release import build, source_tree
    from handlers import wiring
    from pipeline.aws.errors import stack_errors

    root, display = source_tree(), _display()
    more = _pairs(parameter or [])
    settings = begin(
        stack=stack,
        region=region,
        instance_type=instance_type,
        email=email,
        idle_minutes=idle_minutes,
        retention_days=retention_days,
    )
    options, name = _options(settings, bucket, existing_bucket, more, new_image), settings.stack
    check_options(options)
    if dry_run:
        for part in _dry_run(options, root):
            typer.echo(part)
        return
    aws = _account()
    with stack_errors(), _interrupted_by_sigterm():
        target = CloudFormationStack(name, aws.client("cloudformation"), display.say)
        plan = make_plan(options, aws, target)
        for line in _described(plan, aws):
            typer.echo(line)
        if not yes:
            typer.confirm("Continue?", abort=True)
        fleet = wiring.make_fleet(settings)
        carry_out(plan, aws, target, fleet, partial(build, root), display)
    typer.echo(f"Drop chest X-rays into s3://{plan.bucket}/inbox/")
    typer.echo(f"and see them with: cxr up --bucket {plan.bucket} --stack {name}")


def status_command(stack: _StackOption = None, region: _RegionOption = None) -> None:
    """Show the AWS stack: host, queues and last verdicts. The output contains file names."""
    from ec2_runner.stack.cloudformation import CloudFormationStack
    from ec2_runner.stack.status import report
    from handlers import wiring
    from pipeline.aws.errors import stack_errors

    settings = begin(stack=stack, region=region)
    name, aws = settings.stack, _account()
    with stack_errors():
        state = CloudFormationStack(name, aws.client("cloudformation"), typer.echo).read()
        if state is None:
            raise StackError(f"there is no stack {name} in {aws.region}: create it with `cxr deploy`")
        store = wiring.open_bucket(state.parameters["BucketName"])
        index, seen = wiring.make_dynamo_index(settings), wiring.make_observer(settings, store)
        named = state.outputs.get("ArtifactBucket")
        artifacts = wiring.open_bucket(named) if named else None
        for line in report(state, aws.region, store, artifacts, index, seen, aws.client("ec2")):
            typer.echo(line)


def destroy_command(
    stack: _StackOption = None,
    region: _RegionOption = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Also delete the X-rays and verdicts, every version of them.")
    ] = False,
    yes: _YesOption = False,
) -> None:
    """Delete the AWS stack. X-rays and verdicts stay in their bucket unless you add --everything."""
    from ec2_runner.stack.cloudformation import CloudFormationStack
    from ec2_runner.stack.destroy import bucket_of, destroy_stack
    from handlers import wiring
    from pipeline.aws.errors import stack_errors

    settings, display = begin(stack=stack, region=region), _display()
    name, aws = settings.stack, _account()
    with stack_errors(), _interrupted_by_sigterm():
        target = CloudFormationStack(name, aws.client("cloudformation"), display.say)
        bucket = bucket_of(target, aws)
        typer.echo(f"Delete the stack {name} in {aws.region}, its hosts and its worklist.")
        if bucket:
            fate = "are deleted, every version of them" if everything else "stay"
            typer.echo(f"The X-rays and verdicts in s3://{bucket} {fate}.")
        if not yes:
            typer.confirm("Continue?", abort=True)
        destroy_stack(target, aws, wiring.make_fleet(settings), everything, display)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Have a plain `kill` interrupt a `with` block as Ctrl-C does, so that it says what goes on in AWS."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _described(plan: "Plan", aws: "Aws") -> Iterator[str]:
    """Yield lines that describe a deploy to the person who is to agree to it."""
    from ec2_runner.stack.account import limits_too_low
    from ec2_runner.stack.cost import estimate

    verb = "Update" if plan.before else "Create"
    yield f"{verb} the stack {plan.stack} in {aws.region}, account {aws.account}, bucket {plan.bucket}."
    limits = limits_too_low(aws, plan.instance_type, plan.concurrency, plan.hosts, plan.spot)
    yield from (f"Note: {line}." for line in (*plan.notes, *limits))
    yield from estimate(plan.instance_type, plan.idle_minutes, hosts=plan.hosts, spot=plan.spot).lines()


def _dry_run(options: "DeployOptions", root: Path) -> Iterator[str]:
    """Yield lines that say what a deploy would do, as far as these credentials may know."""
    from ec2_runner.stack.account import missing_permissions
    from ec2_runner.stack.cloudformation import CloudFormationStack
    from ec2_runner.stack.deploy import make_plan
    from ec2_runner.stack.preview import changes
    from pipeline.aws.errors import stack_errors
    from pipeline.aws.names import StackNames

    try:
        aws = _account()
    except UsageError as error:
        yield from _from_the_template(options, root)
        yield f"Without an account, no more can be told: {error}."
        return
    names = StackNames(options.stack)
    bucket = options.bucket or options.existing_bucket or names.bucket(aws.account, aws.region)
    with stack_errors(), _interrupted_by_sigterm():
        target = CloudFormationStack(options.stack, aws.client("cloudformation"), lambda _: None)
        try:
            if (state := target.read()) and state.is_busy:
                yield f"The stack {target.name} is in {state.status}: a deploy would wait for its end."
                return
            plan = make_plan(options, aws, target)
        except CxrError as error:
            if not isinstance(error, StoreError) and not isinstance(error.__cause__, StoreError):
                raise
            yield from _from_the_template(options, root)
            yield f"The account cannot be compared with that: {error}."
        else:
            bucket = plan.bucket
            yield from _described(plan, aws)
            yield from changes(plan, target, root / "template.yaml")
        yield from missing_permissions(aws, root, options.stack, bucket)
    yield "Nothing was changed."


def _from_the_template(options: "DeployOptions", root: Path) -> Iterator[str]:
    """Yield lines that say what a new stack would be."""
    from ec2_runner.stack.cost import estimate
    from ec2_runner.stack.deploy import DEFAULT_IDLE_MINUTES, DEFAULT_TYPE, hosts_of, is_spot
    from ec2_runner.stack.preview import resources

    yield f"A new stack {options.stack}:"
    yield from resources(root / "template.yaml", not options.existing_bucket, bool(options.email))
    cost = estimate(
        options.instance_type or DEFAULT_TYPE,
        options.idle_minutes or DEFAULT_IDLE_MINUTES,
        hosts=hosts_of(options.more),
        spot=is_spot(options.more),
    )
    yield from cost.lines()


def _pairs(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UsageError(f"--parameter {word}: write it as NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def _options(
    settings: "Settings",
    bucket: str | None,
    existing_bucket: str | None,
    more: dict[str, str],
    new_image: bool = False,
) -> "DeployOptions":
    """Return what to deploy; command-line options come before settings."""
    from ec2_runner.stack.deploy import DeployOptions

    if not (bucket or existing_bucket):
        named = settings.bucket
        bucket, existing_bucket = (named, None) if settings.create_bucket else (None, named)
    return DeployOptions(
        settings.stack,
        bucket,
        existing_bucket,
        settings.instance_type,
        settings.email,
        settings.idle_minutes if "idle_minutes" in settings.model_fields_set else None,
        settings.retention_days,
        new_image,
        {**settings.parameters, **more},
    )


def _account() -> "Aws":
    """Open the user's AWS account; raise UsageError if AWS does not accept the credentials."""
    from handlers import wiring

    aws = wiring.aws()
    assert aws.account
    return aws


def _display() -> "Display":
    from rich.console import Console

    from ec2_runner.stack.display import Display

    return Display(Console(stderr=True))
