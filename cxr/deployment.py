"""`cxr deploy`, `cxr status`, `cxr destroy`. What needs AWS's library is imported when it is needed."""

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

StackName = Annotated[str | None, typer.Option("--stack", help="[default: cxr-inbox, or CXR_STACK]")]
Region = Annotated[str | None, typer.Option(help="[default: that of your AWS configuration]")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def deploy(
    stack: StackName = None,
    region: Region = None,
    bucket: Annotated[
        str | None, typer.Option(help="Make it.  [default: <stack>-<account>-<region>]")
    ] = None,
    existing_bucket: Annotated[str | None, typer.Option(help="Use a bucket that is there.")] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="Of the hosts.  [default: t3.medium, or as it is]")
    ] = None,
    email: Annotated[str | None, typer.Option(help="Gets the alarms.")] = None,
    idle_minutes: Annotated[
        int | None, typer.Option(min=1, help="Without a job, before a host goes off.  [default: 20]")
    ] = None,
    retention_days: Annotated[
        int | None, typer.Option(min=0, help="Until X-rays and verdicts are deleted.  [default: 0, never]")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: another parameter of template.yaml, such as Ami. Again for more."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Put the AWS stack up, or bring it to the release of this checkout. Safe to repeat.

    Options that you give each time can stand in cxr.toml instead.
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
        what = "Update" if plan.before else "Make"
        typer.echo(f"{what} the stack {name} in {aws.region}, account {aws.account}, bucket {plan.bucket}.")
        typer.echo("\n".join(cost.lines()))
        if not yes:
            typer.confirm("Go on?", abort=True)
        fleet = wiring.make_fleet(settings)
        carry_out(plan, aws, target, fleet, partial(build, root), display)
    typer.echo(f"Drop chest X-rays into s3://{plan.bucket}/inbox/")
    typer.echo(f"and see them with: cxr up --bucket {plan.bucket} --stack {name}")


def status(stack: StackName = None, region: Region = None) -> None:
    """Show the AWS stack: host, queues, last verdicts. It shows names of files."""
    from ec2_runner.stack.cloudformation import CloudFormationStack
    from ec2_runner.stack.status import report
    from handlers import wiring
    from pipeline.aws.errors import stack_errors

    settings = begin(stack=stack, region=region)
    name, aws = settings.stack, _account()
    with stack_errors():
        state = CloudFormationStack(name, aws.client("cloudformation"), typer.echo).read()
        if state is None:
            raise StackError(f"there is no stack {name} in {aws.region}: `cxr deploy` makes it")
        store = wiring.open_bucket(state.parameters["BucketName"])
        index, seen = wiring.make_dynamo_index(settings), wiring.make_observer(settings, store)
        for line in report(state, aws.region, store, index, seen):
            typer.echo(line)


def destroy(
    stack: StackName = None,
    region: Region = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Also the X-rays and the verdicts, every version of them.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Take the AWS stack down. X-rays and verdicts stay in their bucket, unless --everything goes."""
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
            typer.confirm("Go on?", abort=True)
        destroy_stack(target, aws, wiring.make_fleet(settings), everything, display)


def _pairs(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UsageError(f"--parameter {word}: write it as NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def _options(
    settings: "Settings", bucket: str | None, existing_bucket: str | None, more: dict[str, str]
) -> "DeployOptions":
    """Return what to deploy: what the options name comes before what the settings do."""
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
    """Open the user's account; raise UsageError where AWS rejected the credentials."""
    from handlers import wiring

    aws = wiring.aws()
    assert aws.account
    return aws


def _display() -> "Display":
    from rich.console import Console

    from ec2_runner.stack.display import Display

    return Display(Console(stderr=True))
