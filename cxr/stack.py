"""`cxr deploy`, `cxr status`, `cxr destroy`. What needs AWS's library is imported when it is needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import StackError, UsageError

if TYPE_CHECKING:
    from ec2_runner.stack.clients import Clients
    from ec2_runner.stack.display import Display

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
    """Put the AWS stack up, or bring it to the release of this checkout. Safe to repeat."""
    from ec2_runner.stack.cloudformation import Stack
    from ec2_runner.stack.cost import estimate
    from ec2_runner.stack.deploy import Options, carry_out, make_plan
    from ec2_runner.stack.release import build, source_tree

    root, name, display = source_tree(), _name(stack), _display()
    more = _pairs(parameter or [])
    options = Options(name, bucket, existing_bucket, instance_type, email, idle_minutes, retention_days, more)
    with _clients(region) as clients:
        target = Stack(name, clients.cloudformation, display.say)
        plan = make_plan(options, clients, target)
        cost = estimate(plan.instance_type, plan.idle_minutes)
        what = "Update" if plan.before else "Make"
        typer.echo(
            f"{what} the stack {name} in {clients.region}, account {clients.account}, bucket {plan.bucket}."
        )
        typer.echo("\n".join(cost.lines()))
        if not yes:
            typer.confirm("Go on?", abort=True)
        carry_out(plan, clients, target, partial(build, root), display)
    typer.echo(f"Drop chest X-rays into s3://{plan.bucket}/inbox/")
    typer.echo(f"and see them with: cxr up --bucket {plan.bucket} --stack {name}")


def status(stack: StackName = None, region: Region = None) -> None:
    """Show the AWS stack: host, queues, last verdicts. It shows names of files."""
    from ec2_runner.stack.cloudformation import Stack
    from ec2_runner.stack.status import report

    name = _name(stack)
    with _clients(region) as clients:
        state = Stack(name, clients.cloudformation, typer.echo).read()
        if state is None:
            raise StackError(f"there is no stack {name} in {clients.region}: `cxr deploy` makes it")
        for line in report(name, state, clients):
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
    from ec2_runner.stack.cloudformation import Stack
    from ec2_runner.stack.destroy import bucket_of
    from ec2_runner.stack.destroy import destroy as take_down

    name, display = _name(stack), _display()
    with _clients(region) as clients:
        target = Stack(name, clients.cloudformation, display.say)
        bucket = bucket_of(target, clients)
        typer.echo(f"Delete the stack {name} in {clients.region}, its hosts and its worklist.")
        if bucket:
            fate = "are deleted, every version of them" if everything else "stay"
            typer.echo(f"The X-rays and verdicts in s3://{bucket} {fate}.")
        if not yes:
            typer.confirm("Go on?", abort=True)
        take_down(target, clients, everything, display)


def _pairs(words: list[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UsageError(f"--parameter {word}: write it as NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def _name(stack: str | None) -> str:
    from pipeline.settings import load_settings

    return load_settings(stack=stack).stack


@contextmanager
def _clients(region: str | None) -> "Iterator[Clients]":
    from ec2_runner.stack.clients import aws_errors, connect

    clients = connect(region)
    with aws_errors():
        yield clients


def _display() -> "Display":
    from rich.console import Console

    from ec2_runner.stack.display import Display

    return Display(Console(stderr=True))
