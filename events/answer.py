"""Read what a function answered, and what was logged meanwhile, from the output of `sam local invoke`."""

import json
import re
from dataclasses import dataclass
from typing import Any

# How SAM's own lines begin, when all is well.
_SAMS = (
    *("START ", "Invoking ", "Mounting ", "SAM_CONTAINER_ID: ", "No current session", "Requested to skip"),
    *("Local image was not found", "Building image", "Removing rapid images"),
)


@dataclass(frozen=True)
class Answer:
    """Hold what a function answered, and what it and SAM wrote meanwhile."""

    value: Any
    error: str | None  # why there is no answer, or the function's own error
    log: str
    seconds: float

    @property
    def function_seconds(self) -> float:
        """Return the time in the function itself, as Lambda reports it; zero if it does not."""
        found = re.search(r"^REPORT .*?\tDuration: ([\d.]+) ms", self.log, re.M)
        return float(found[1]) / 1000 if found else 0.0

    @property
    def failures(self) -> list[str]:
        """Return the results that mean a fault here: an image that got no verdict, or no host."""
        found = self.value.get("outcomes", []) if isinstance(self.value, dict) else []
        results = [outcome.get("result") for outcome in found if isinstance(outcome, dict)]
        return [result for result in results if result in ("failed", "waiting")]


def readable(log: str) -> list[str]:
    """Return the lines of a log as a person would write them, with most of SAM's own left out."""
    lines = []
    for line in log.partition("\nEND RequestId")[0].splitlines():  # then the runtime is ended
        try:
            entry = json.loads(line)
        except ValueError:
            if line.startswith(_SAMS) or not line.strip():
                continue
            lines.append(line)
            continue
        if not isinstance(entry, dict):
            lines.append(line)
        elif "_aws" in entry:
            metrics = [
                one["Name"] for group in entry["_aws"]["CloudWatchMetrics"] for one in group["Metrics"]
            ]
            lines.append("figures: " + ", ".join(f"{name} {_plain(entry[name])}" for name in metrics))
        else:
            shown = [str(entry.get(name, "")) for name in ("level", "message", "exception")]
            lines.append(" ".join(word for word in shown if word))
    return lines


def answer_of(out: str, code: int | None, log: str, seconds: float) -> Answer:
    """Return the answer in SAM's output; `code` is its exit code, None where it did not end in time."""
    if code is None:
        return Answer(None, f"no answer in {seconds:.0f} s", log, seconds)
    last = out.strip().splitlines()[-1:] or [""]
    try:
        value = json.loads(last[0])
    except ValueError:
        why = f"SAM ended with exit code {code}" if code else "the function gave no answer"
        return Answer(None, f"{why} {last[0]}".strip(), log, seconds)
    if isinstance(value, dict) and "errorMessage" in value:
        error = f"{value.get('errorType', 'error')}: {value['errorMessage']}"
        return Answer(value, error, log, seconds)
    return Answer(value, f"SAM ended with exit code {code}" if code else None, log, seconds)


def _plain(figure: Any) -> str:
    """Write a figure, or the figures of a list."""
    return ", ".join(map(str, figure)) if isinstance(figure, list) else str(figure)
