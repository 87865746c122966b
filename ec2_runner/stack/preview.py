"""Tell what a deploy would change, and leave everything as it is: `cxr deploy --dry-run`.

docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ResourceChange.html
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ec2_runner.stack.cloudformation import CloudFormationStack
from ec2_runner.stack.deploy import Plan
from ec2_runner.stack.upload import deployable, released
from pipeline.errors import StackError, StoreError
from pipeline.verdict import RELEASE

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import ResourceChangeTypeDef

_LIMIT = 51_200  # characters of a template that CloudFormation takes without a bucket
_NO_PACKAGE = "s3://not-uploaded/lambda.zip"  # CloudFormation reads the package only when it applies a change
_BLOCK = re.compile(r"[|>][-+]?$")  # the following deeper lines are text
_COMMENT = re.compile(r"""^((?:[^"'#]|"[^"]*"|'[^']*')*?)\s+#.*$""")
# What happens to a resource, the gravest first.
_VERBS = ("REPLACE", "DELETE", "may replace", "leave", "change", "import", "create")
_REASONS = 4  # properties named for a resource


def changes(plan: Plan, stack: CloudFormationStack, template: Path) -> Iterator[str]:
    """Yield lines that say what carrying out the plan would change, by a change set that is deleted again."""
    text = compact(bare(deployable(template, _NO_PACKAGE)))
    state = plan.before
    if state:
        number = (released(state) or "an unknown one").partition("-")[0]
        yield f"release {RELEASE} of this checkout; the functions have {number}"
    found, reason = [], ""
    if len(text.encode()) > _LIMIT:
        reason = (
            f"the template is longer than the {_LIMIT} characters that a change set takes without a bucket"
        )
    elif state is None and stack.read():
        reason = "what is left of the failed creation is in the way of a change set"
    elif state and not state.is_sound:
        reason = f"CloudFormation makes no change set of a stack in {state.status}"
    else:
        try:
            named = {} if state and released(state) else {"Release": f"{RELEASE}-{'0' * 64}"}  # not built yet
            found = stack.planned_changes(text, {**plan.parameters, **named, "EventMapping": "true"})
        except (StackError, StoreError) as error:
            reason = str(error)
    if reason:
        yield f"the changes cannot be told: {reason}"
        if state is None:
            yield from resources(template, plan.makes_bucket, bool(plan.parameters.get("NotificationEmail")))
        return
    yield from described(found)
    if state:
        yield "  (each function counts as changed: its code is only built by a deploy)"
    if plan.changes_type:
        yield "  hosts of another type are ended; the next job launches one of the new type"


def resources(template: Path, makes_bucket: bool, notifies: bool) -> Iterator[str]:
    """Yield lines that say what a new stack would have, from the template alone."""
    decided = {"MakesBucket": makes_bucket, "Notifies": notifies}
    names: dict[str, list[str]] = defaultdict(list)
    for name, kind, condition in template_resources(template.read_text(encoding="utf-8")):
        if decided.get(condition, True):
            names[kind].append(name)
    yield from _created(names)
    yield "  and what SAM adds for the functions' queues and schedules"


def template_resources(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the name, type and condition of each resource of our template, as it is laid out."""
    part = re.split(r"^\w+:.*\n", text.partition("\nResources:\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    for name, body in re.findall(r"^  (\w+):.*\n((?:(?:    .*)?\n)*)", part, flags=re.MULTILINE):
        kind = re.search(r"^    Type: (\S+)", body, flags=re.MULTILINE)
        condition = re.search(r"^    Condition: (\S+)", body, flags=re.MULTILINE)
        if kind:
            yield name, kind[1], condition[1] if condition else ""


def described(found: "list[ResourceChangeTypeDef]") -> Iterator[str]:
    """Yield lines for the changes of a change set: their numbers, then the gravest changes first."""
    by_verb: dict[str, list[ResourceChangeTypeDef]] = defaultdict(list)
    for change in found:
        by_verb[_verb(change)].append(change)
    counts = [f"{verb} {len(by_verb[verb])}" for verb in _VERBS if by_verb[verb]]
    yield f"changes: {', '.join(counts) or 'none'}"
    for verb in _VERBS[:-1]:
        for change in by_verb[verb]:
            yield (
                f"  {verb:<12}{change['LogicalResourceId']} ({change['ResourceType']}){_because(change)}"
                f"{_fate(change)}"
            )
    names: dict[str, list[str]] = defaultdict(list)
    for change in by_verb["create"]:
        names[change["ResourceType"]].append(change["LogicalResourceId"])
    yield from _created(names)


def bare(text: str) -> str:
    """Return our template without what only people read: descriptions, the groups of its parameters."""
    text = re.sub(r"^Metadata:\n(?:(?:  .*)?\n)+", "", text, flags=re.MULTILINE)
    return re.sub(r"^    (?:Constraint)?Description: .*\n", "", text, flags=re.MULTILINE)


def compact(text: str) -> str:
    """Return YAML without comments and with the least indentation; blocks of text stay as they are.

    It is for templates laid out as ours, in which no quoted text goes over a line's end.
    """
    lines, block = [], -1  # the indentation of the key whose block of text this is
    depths = [(0, 0)]  # indentation before and after, of the lines that this one belongs to
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if block >= 0 and (indent > block or not line.strip()):
            lines.append(line)
            continue
        line, block = _COMMENT.sub(r"\1", line).strip(), -1
        if not line or line.startswith("#"):
            continue
        while depths[-1][0] > indent:
            depths.pop()
        if depths[-1][0] < indent:
            depths.append((indent, depths[-1][1] + 1))
        lines.append(" " * depths[-1][1] + line)
        if _BLOCK.search(line):
            block = indent
        for _ in range((len(line) - len(line.lstrip("- "))) // 2):  # the keys of a list's item
            depths.append((depths[-1][0] + 2, depths[-1][1] + 2))
    return "\n".join(lines) + "\n"


def _created(names: dict[str, list[str]]) -> Iterator[str]:
    for kind, found in sorted(names.items()):
        yield f"  create      {len(found)} {kind}: {', '.join(sorted(found))}"


def _verb(change: "ResourceChangeTypeDef") -> str:
    action, policy = change["Action"], change.get("PolicyAction", "")
    if action == "Remove":
        return "leave" if policy == "Retain" else "DELETE"
    if action == "Modify":
        replaces = {"True": "REPLACE", "Conditional": "may replace"}
        return replaces.get(change.get("Replacement", "False"), "change")
    return {"Add": "create", "Import": "import"}.get(action, "change")


def _because(change: "ResourceChangeTypeDef") -> str:
    """Return which properties change, those that replace the resource first, and which parameters do it."""
    causes: dict[str, bool] = {}
    for detail in change.get("Details", []):
        target = detail.get("Target", {})
        name = target.get("Name") or target.get("Attribute", "")
        entity = detail.get("CausingEntity", "")
        if detail.get("ChangeSource") == "ParameterReference" and entity:
            name = f"{name} from {entity}"
        causes[name] = causes.get(name, False) or target.get("RequiresRecreation") in (
            "Always",
            "Conditionally",
        )
    if not causes:
        return ""
    ordered = sorted(causes, key=lambda name: (not causes[name], name))
    more = ", ..." if len(ordered) > _REASONS else ""
    return f": {', '.join(ordered[:_REASONS])}{more}"


def _fate(change: "ResourceChangeTypeDef") -> str:
    """Say what becomes of a resource that is replaced or let go of."""
    return {
        "ReplaceAndDelete": "; the old one is deleted",
        "ReplaceAndRetain": "; the old one stays",
        "Retain": "; it stays outside the stack",
    }.get(change.get("PolicyAction", ""), "")
