"""Invoke the stack's five functions in containers, the first of them with each event here: `make smoke`.

It needs a container engine and an SSH server's program, and brings everything else itself. The exit code is 1
when a function failed, and 2 when something is missing, with a line that says what to do.
"""

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from events.answer import Answer, readable
from events.engine import CannotRun
from events.stage import Choice, Stage, functions, stage
from pipeline.events import s3_event
from pipeline.names import OUTBOX, is_verdict, verdict_key

EVENTS = sorted(Path(__file__).parent.glob("*.json"))
_LOST = "inbox/lost.jpeg"  # an X-ray whose deliveries all failed


def main() -> int:
    """Run everything; return the exit code."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    began = time.monotonic()
    try:
        with stage(Choice(), lambda text: typer.echo(text, err=True)) as here:
            good = [_shown(here, *run) for run in _runs(here)]
    except CannotRun as problem:
        typer.echo(f"smoke: {problem}", err=True)
        return 2
    seconds = time.monotonic() - began
    typer.echo(
        f"{sum(good)} of {len(good)} passed, {len(functions())} functions, in {seconds:.0f} s", err=True
    )
    return 0 if all(good) else 1


def _runs(here: Stage) -> Iterator[tuple[str, str, Answer, str]]:
    """Yield each run: its event, the function, the answer, and what is wrong with it, if anything."""
    for path in EVENTS:
        answer = here.invoke(functions()["ingest"], json.loads(path.read_bytes()))
        yield path.name, "ingest", answer, ", ".join(answer.failures)
    keys = _verdicts(here)
    answer = here.invoke(functions()["record"], s3_event(here.bucket, keys))
    recorded = _field(answer, "recorded")
    wrong = "" if keys and recorded == len(keys) else f"{len(keys)} verdicts, of which it recorded {recorded}"
    yield f"{len(keys)} verdicts", "record", answer, wrong

    here.client("s3").put_object(Bucket=here.bucket, Key=_LOST, Body=b"an X-ray")
    answer = here.invoke(functions()["dead_letter"], s3_event(here.bucket, [_LOST]))
    status = _status(here, _LOST)
    yield "a lost job", "dead_letter", answer, "" if status == "failed" else f"its verdict is {status}"

    answer = here.invoke(functions()["reconcile"], {})
    queued = _field(answer, "queued")
    yield "an inbox", "reconcile", answer, "" if isinstance(queued, int) else f"it queued {queued}"

    host = _launch(here)
    answer = here.invoke(functions()["reap"], {})
    kept = answer.value == {} and _is_alive(here, host)
    yield "a booting host", "reap", answer, "" if kept else "the host should have been left alone"


def _shown(here: Stage, event: str, function: str, answer: Answer, wrong: str) -> bool:
    """Print one run on a line; with the log and what the other parts wrote if it failed."""
    wrong = answer.error or wrong
    if not wrong:
        typer.echo(f"ok  {function:<12} {event:<24} {answer.seconds:4.1f} s  {_short(answer.value)}")
        return True
    typer.echo(f"BAD {function:<12} {event:<24} {answer.seconds:4.1f} s  {wrong}")
    typer.echo("\n".join([*(f"  {line}" for line in readable(answer.log)), here.diagnosis()]), err=True)
    return False


def _short(value: Any) -> str:
    """Return the results of an answer in a few words."""
    if isinstance(value, dict) and "outcomes" in value:
        results = [outcome["result"] for outcome in value["outcomes"]]
        return ", ".join(results) or "nothing to do"
    return json.dumps(value)


def _field(answer: Answer, name: str) -> Any:
    return answer.value.get(name) if isinstance(answer.value, dict) else None


def _verdicts(here: Stage) -> list[str]:
    found = here.client("s3").list_objects_v2(Bucket=here.bucket, Prefix=OUTBOX).get("Contents", [])
    return [item["Key"] for item in found if is_verdict(item["Key"])]


def _status(here: Stage, key: str) -> str:
    s3 = here.client("s3")
    try:
        verdict = s3.get_object(Bucket=here.bucket, Key=verdict_key(key))
    except s3.exceptions.NoSuchKey:
        return "missing"
    return str(json.loads(verdict["Body"].read())["status"])


def _launch(here: Stage) -> str:
    """Launch an instance of the stack that no lease knows, as one that has just been started."""
    ec2 = here.client("ec2")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    tag = {"ResourceType": "instance", "Tags": [{"Key": "cxr:stack", "Value": here.stack}]}
    found = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=[tag])
    return str(found["Instances"][0]["InstanceId"])


def _is_alive(here: Stage, instance: str) -> bool:
    found = here.client("ec2").describe_instances(InstanceIds=[instance])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"]) in ("pending", "running")


if __name__ == "__main__":
    sys.exit(main())
