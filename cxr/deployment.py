"""Run `cxr deploy`, `status` and `destroy`. The AWS library is imported when a command runs."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from cxr.options import begin
from pipeline.errors import StackError, UsageError

if TYPE_CHECKING:
    from ec2_runner.stack.deploy import DeployOptions
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
    parameter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for another parameter of template.yaml, such as Ami. May be repeated."),
    ] = None,
    yes: _YesOption = False,
) -> None:
    """Create the AWS stack, or update it to the release of this checkout. Safe to repeat.

    Keep options that you give each time in cxr.toml instead.
    """
    from ec2_runner.stack.cloudformation import CloudFormationStack
    from ec2_runner.stack.cost import estimate
    from ec2_runner.stack.deploy import carry_out, make_plan
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
    options, name = _options(settings, bucket, existing_bucket, more), settings.stack
    aws = _account()
    with stack_errors():
        target = CloudFormationStack(name, aws.client("cloudformation"), display.say)
        plan = make_plan(options, aws, target)
        cost = estimate(plan.instance_type, plan.idle_minutes)
        verb = "Update" if plan.before else "Create"
        typer.echo(f"{verb} the stack {name} in {aws.region}, account {aws.account}, bucket {plan.bucket}.")
        typer.echo("\n".join(cost.lines()))
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
        for line in report(state, aws.region, store, index, seen):
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
    with stack_errors():
        target = CloudFormationStack(name, aws.client("cloudformation"), display.say)
        bucket = bucket_of(target, aws)
        typer.echo(f"Delete the stack {name} in {aws.region}, its hosts and its worklist.")
        if bucket:
            fate = "are deleted, every version of them" if everything else "stay"
            typer.echo(f"The X-rays and verdicts in s3://{bucket} {fate}.")
        if not yes:
            typer.confirm("Continue?", abort=True)
        destroy_stack(target, aws, wiring.make_fleet(settings), everything, display)


def _pairs(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UsageError(f"--parameter {word}: write it as NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def _options(
    settings: "Settings", bucket: str | None, existing_bucket: str | None, more: dict[str, str]
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
