"""Invoke one of the stack's functions in a container: `make invoke EVENT=events/s3_put.json`."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from events.answer import Answer, readable
from events.engine import CannotRun
from events.stage import Choice, Stage, functions, stage
from pipeline.events import Change, Event, parse, s3_event
from pipeline.names import is_verdict, verdict_key

EXAMPLE = Path(__file__).parent / "s3_put.json"
_SCHEDULED = ("reconcile", "reap")  # run by the clock, and do not read their event


def invoke_command(
    event: Annotated[str, typer.Argument(help="Event file; without one, the function gets an example.")] = "",
    function: Annotated[str, typer.Option(help="Function; by default, the one the event is for.")] = "",
    inbox: Annotated[str, typer.Option(help="Folder to fill the bucket's inbox with.")] = "",
) -> None:
    """Print the function's answer, and what it logged; exit code 1 if it failed."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    try:
        content = read_event(Path(event)) if event else None
        chosen = choose(function, content)
        if inbox and not Path(inbox).is_dir():
            raise CannotRun(f"INBOX: there is no folder {inbox}")
        with stage(Choice.of(os.environ), _say, Path(inbox) if inbox else None) as here:
            answer = invoke(here, chosen, content, event)
    except CannotRun as problem:
        _say(f"invoke: {problem}")
        raise typer.Exit(2) from problem
    raise typer.Exit(1 if answer.error or (answer.failures and chosen == "ingest") else 0)


def invoke(here: Stage, function: str, event: Event | None, name: str) -> Answer:
    """Invoke a function, and print all about it."""
    if event is None:
        event, name = example(here, function)
    _say(f"invoking {functions()[function]} with {name}")
    answer = here.invoke(functions()[function], event)
    for line in answer.log.splitlines() if answer.error else readable(answer.log):
        _say(f"  {line}")
    if answer.error or answer.failures:
        _say(here.diagnosis())
    if answer.value is not None:
        typer.echo(json.dumps(answer.value, indent=1, ensure_ascii=False))
    if answer.error:
        _say(f"{function} failed after {answer.seconds:.0f} s: {answer.error}")
    else:
        whole = f"{answer.seconds:.0f} s with the container's start"
        _say(f"{function} answered in {answer.function_seconds:.1f} s, {whole}")
    return answer


def example(here: Stage, function: str) -> tuple[Event, str]:
    """Return an event for a function that got none, with its name."""
    put = read_event(EXAMPLE)
    if function in _SCHEDULED:
        return {}, "an empty event"
    if function == "record":
        keys = [change.key for change in parse(put) if isinstance(change, Change)]
        invoke(here, "ingest", put, str(EXAMPLE))
        return s3_event(here.bucket, [verdict_key(key) for key in keys]), "the event of its verdict"
    return put, str(EXAMPLE)


def read_event(path: Path) -> Event:
    """Read an event's file; raise CannotRun if it holds none."""
    try:
        event: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise CannotRun(f"EVENT={path}: {error.strerror}") from error
    except ValueError as error:
        raise CannotRun(f"EVENT={path} is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise CannotRun(f"EVENT={path}: an event is a JSON object, in braces")
    return event


def choose(name: str, event: Event | None) -> str:
    """Return the function that is named, in any spelling, or else the one that the event is for."""
    if not name:
        return _meant_by(event) if event is not None else "ingest"
    plain = name.lower().removesuffix("function").replace("-", "").replace("_", "")
    for function in functions():
        if function.replace("_", "") == plain:
            return function
    raise CannotRun(f"FUNCTION={name}: choose from {', '.join(functions())}")


def _meant_by(event: Event) -> str:
    if event.get("source") == "aws.events":
        return "reconcile"
    keys = [change.key for change in parse(event) if isinstance(change, Change)]
    return "record" if keys and all(is_verdict(key) for key in keys) else "ingest"


def _say(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    typer.run(invoke_command)
