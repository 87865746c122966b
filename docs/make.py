"""Write the parts of the documents that come from the code: `python docs/make.py [--screenshots]`.

These are the schemas, the tables of settings and of the samples' verdicts, the model card's tables, and the
host types in template.yaml; with Debian's chromium also the screenshots, of synthetic samples only.
`tests/test_docs.py` fails when one of them is out of date.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic.fields import FieldInfo

from ec2_runner.stack.cost import HOST_TYPES
from ec2_runner.stack.release import architecture_of
from model import CARD, SHIPPED
from model.evaluate.card import REFERENCE, Card, make_card, shipped_card
from model.evaluate.metrics import Metrics
from model.evaluate.reference import make_reference
from model.serve.engine import Engine
from pipeline.errors import InputRejected
from pipeline.notices.notice import notice_json_schema
from pipeline.reviews.review import review_json_schema
from pipeline.settings import SECTIONS, DeployedSettings, Settings
from pipeline.settings.tables import TABLES, Rule
from pipeline.verdict import DOUBTS, json_schema
from pipeline.verdict import SCHEMA as SCHEMA_NAME

ROOT = Path(__file__).parents[1]
SETTINGS, VERDICT = ROOT / "docs" / "settings.md", ROOT / "docs" / "verdict.md"
SCHEMA = ROOT / "docs" / "verdict.schema.json"
REVIEW_SCHEMA = ROOT / "docs" / "review.schema.json"
NOTICE_SCHEMA = ROOT / "docs" / "notice.schema.json"
CARD_TEXT = ROOT / "model" / "weights" / "README.md"
TEMPLATE = ROOT / "template.yaml"
SAMPLES = ROOT / "events" / "samples"


def schema() -> str:
    """Return the verdict's JSON Schema."""
    return json.dumps(json_schema(), indent=1) + "\n"


def review_schema() -> str:
    """Return the review's JSON Schema."""
    return json.dumps(review_json_schema(), indent=1) + "\n"


def notice_schema() -> str:
    """Return the notice's JSON Schema."""
    return json.dumps(notice_json_schema(), indent=1) + "\n"


def settings() -> str:
    """Return the document of the settings with its tables up to date."""
    return _filled(SETTINGS, {"settings": settings_table()})


def verdict() -> str:
    """Return the document of the verdict with its example and its table of the samples up to date."""
    return _filled(VERDICT, {"example": example(), "samples": samples_table()})


def _filled(path: Path, parts: dict[str, str]) -> str:
    """Return a document with the parts between `<!-- name -->` and `<!-- /name -->` replaced."""
    text = path.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = re.sub(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\1{part}\2", text, flags=re.DOTALL)
    return text


def template() -> str:
    """Return the template with the host types that `cxr deploy` knows."""
    names = "".join(f"      - {name}\n" for name in HOST_TYPES)
    rows = ""
    for name, kind in HOST_TYPES.items():
        types = ", ".join((name, *kind.substitutes))
        rows += f"    {name}: {{ Architecture: {architecture_of(name)}, Types: [{types}] }}\n"
    text = TEMPLATE.read_text(encoding="utf-8")
    for heading, lines in (("AllowedValues", names), ("InstanceTypes", rows)):
        pattern = rf"({heading}: # host types,[^\n]*\n).*?( *# end of the host types)"
        text = re.sub(pattern, rf"\1{lines}\2", text, flags=re.DOTALL)
    return text


def example() -> str:
    """Return the most important fields of one sample's verdict, without its map."""
    path = SAMPLES / "pneumonia-1.jpeg"
    seen = Engine().examine(path.read_bytes())
    source = {"key": f"inbox/{path.name}", "media_type": seen.facts.media_type}
    finding = seen.finding.model_dump(exclude={"map"})
    shown = {"schema": SCHEMA_NAME, "status": "classified", "source": source, "finding": finding}
    return f"```json\n{json.dumps({**shown, 'warnings': seen.warnings}, indent=1)}\n```\n"


def samples_table() -> str:
    """Return a table of the shipped network's answers about the samples."""
    engine = Engine()
    lines = ["| sample | verdict | P(pneumonia) | why |", "|---|---|---|---|"]
    for path in samples():
        try:
            seen = engine.examine(path.read_bytes())
        except InputRejected as refusal:
            lines.append(f"| `{path.name}` | rejected |  | `{refusal.code}` |")
            continue
        finding, warnings = seen.finding, ", ".join(f"`{word}`" for word in seen.warnings if word in DOUBTS)
        probability = "" if warnings else f"{finding.probability:.2f}"
        lines.append(f"| `{path.name}` | {finding.label} | {probability} | {warnings} |")
    return "\n".join(lines) + "\n"


def samples() -> list[Path]:
    """Return the samples of a first run."""
    return sorted(path for path in SAMPLES.iterdir() if path.is_file())


def settings_table() -> str:
    """Return a table of settings for each section of cxr.toml, and the names of the stack's own settings."""
    parts = []
    for section, group in SECTIONS.items():
        name = f"`[{section}]`" if section else "Above the first section"
        lines = [
            f"**{name}**: {_INTRODUCTIONS[section]}",
            "",
            "| key | variable | default | |",
            "|---|---|---|---|",
        ]
        for key, field in group.model_fields.items():
            lines.append(f"| `{key}` | `CXR_{key.upper()}` | {_default(field)} | {field.description} |")
        parts.append("\n".join(lines))
    for kind, table in TABLES.items():
        lines = [f"**`[[{kind}]]`**: {_INTRODUCTIONS[kind]}", "", "| key | default | |", "|---|---|---|"]
        for key, field in sorted(table.model_fields.items(), key=lambda item: item[0] in Rule.model_fields):
            default = "needed" if field.is_required() else _default(field)
            lines.append(f"| `{key}` | {default} | {field.description} |")
        parts.append("\n".join(lines))
    of_stack = ", ".join(f"`CXR_{key.upper()}`" for key in DeployedSettings.model_fields)
    parts.append(f"The stack sets {of_stack} for its functions and hosts; they have no place in `cxr.toml`.")
    return "\n\n".join(parts) + "\n"


_INTRODUCTIONS = {
    "": "where the X-rays are, and what is logged.",
    "page": "the page that `cxr up` serves.",
    "judging": "how images are judged.",
    "host": "where images are judged.",
    "dicom": "the DICOM node of `cxr up` ([pacs.md](pacs.md)).",
    "send": "a PACS that gets results; one table for each ([pacs.md](pacs.md#send-results-back)).",
    "notify": "a program, or people, that get notices; one table for each ([notices.md](notices.md)).",
    "stack": "the AWS stack that `cxr deploy` creates and other commands use.",
}


def _default(field: FieldInfo) -> str:
    """Return a default as it would stand in a TOML file, or its meaning."""
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["shown"])
    default = field.default
    if default is None or default in ((), {}):
        return "none"
    if isinstance(default, bool | int | tuple):
        return f"`{json.dumps(default)}`"
    return f'`"{default}"`'


def card() -> str:
    """Return the written model card with its tables up to date."""
    facts = shipped_card()
    files = (
        f"`{SHIPPED.name}` serves (sha256 `{facts.sha256}`); "
        f"`{REFERENCE.name}` is the reference (sha256 `{facts.reference_sha256}`)"
    )
    rows = {
        "parameters": f"{facts.parameters / 1e6:.2f} million",
        "files": files,
        "made by": f"`{facts.command}`, see [the recipe](../README.md)",
        "data": facts.trained_on,
        "licence": facts.licence,
        "intended use": facts.intended_use,
        "not for": facts.not_for,
    }
    parts = {
        "facts": "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items()),
        "figures": _figures(facts),
        "values": _predictive_values(facts),
        "populations": _populations(facts),
        "limits": "".join(f"- {limit}\n" for limit in facts.limits),
    }
    return _filled(CARD_TEXT, parts)


def _figures(facts: Card) -> str:
    head = [f"{of.images} {words} of {of.patients} patients" for of, words in _measured(facts)]
    lines = [f"| | {' | '.join(head)} |", "|---|---|---|"]
    for name, figure in {
        "AUC": lambda of: of.auc,
        "accuracy at the decision threshold, midway between the two": lambda of: of.at_decision.accuracy,
        "sensitivity at the decision threshold": lambda of: of.at_decision.sensitivity,
        "specificity at the decision threshold": lambda of: of.at_decision.specificity,
        "accuracy at P = 0.5": lambda of: of.at_half.accuracy,
        "calibration error (ECE)": lambda of: of.ece,
        "pneumonias not called normal": lambda of: of.not_called_normal.sensitivity,
        "normal images not called pneumonia": lambda of: of.not_called_pneumonia.specificity,
        "called `uncertain`, including atypical images": lambda of: of.uncertain,
        "right when certain": lambda of: of.right_when_certain,
        "refused": lambda of: of.refused,
    }.items():
        lines.append(f"| {name} | {' | '.join(str(figure(of) or 'none') for of, _ in _measured(facts))} |")
    return "\n".join(lines) + "\n"


def _predictive_values(facts: Card) -> str:
    lines = [
        "| share with pneumonia | `pneumonia` is right (PPV) | `normal` is right (NPV) |",
        "|---|---|---|",
    ]
    lines += [
        f"| {at.prevalence:.0%} | {at.ppv or 'none'} | {at.npv or 'none'} |"
        for at in facts.originals.predictive_values
    ]
    return "\n".join(lines) + "\n"


def _populations(facts: Card) -> str:
    lines = ["| | images | refused | uncertain | confident |", "|---|---|---|---|---|"]
    for one in facts.populations:
        shares = f"{one.refused} | {one.uncertain} | {one.confident}"
        lines.append(f"| {one.name} | {one.images} | {shares} |")
    return "\n".join(lines) + "\n"


def _measured(facts: Card) -> list[tuple[Metrics, str]]:
    return [(facts.originals, "originals"), (facts.copies, "squashed copies")]


def measure_card(originals: Path, copies: Path, *others: Path) -> None:
    """Measure the shipped network again on the fixed fold, and write its machine-readable card.

    `others` are folders of other populations; see `model.evaluate.populations`.
    """
    from model.evaluate.folder import evaluate_folder
    from model.evaluate.populations import judge_populations
    from model.train.export import load_network

    unchanged = Settings(prevalence=None, weights=None)  # ignores the environment
    parameters = sum(parameter.numel() for parameter in load_network(REFERENCE).parameters())
    measured = [evaluate_folder(path, unchanged) for path in (originals, copies)]
    populations = [one for path in others for one in judge_populations(path, unchanged).populations]
    reference = make_reference(copies, Engine())
    made = make_card(parameters, Engine().calibration, measured[0], measured[1], populations, reference)
    CARD.write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")


def measure_reference(copies: Path) -> None:
    """Write the histograms of the validation fold of a data set into the card of the shipped network."""
    made = shipped_card().model_copy(update={"reference": make_reference(copies, Engine())})
    CARD.write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")


def screenshots() -> None:
    """Take screenshots of the worklist and one X-ray, in both themes, as a new user sees them."""
    from playwright.sync_api import sync_playwright

    with _page() as url, sync_playwright() as playwright:
        chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        window = {"width": 1280, "height": 800}
        page = browser.new_page(viewport=window, device_scale_factor=1.25, color_scheme="dark")
        for name, path in (("worklist", "/"), ("xray", "/xray/pneumonia-1.jpeg")):
            page.goto(url + path)
            for theme in ("", "-light"):
                page.wait_for_load_state("networkidle")
                page.screenshot(path=ROOT / "docs" / f"{name}{theme}.png")
                page.click("#theme")
        browser.close()


@contextmanager
def _page() -> Iterator[str]:
    """Run a `cxr up` over the samples until all are judged; yield its address."""
    with TemporaryDirectory() as root:
        (Path(root) / "inbox").mkdir()
        command = [sys.executable, "-m", "cxr", "up", "--root", root, "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            url = process.stdout.readline().split()[4]
            for path in samples():
                shutil.copy(path, Path(root) / "inbox")
                time.sleep(0.3)
            time.sleep(2)
            yield url
            process.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--screenshots", action="store_true")
    parser.add_argument(
        "--card",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="measure again: ORIGINALS COPIES [POPULATIONS]...",
    )
    parser.add_argument("--reference", type=Path, metavar="COPIES", help="measure the validation fold again")
    arguments = parser.parse_args()
    if arguments.card:
        measure_card(*arguments.card)
    if arguments.reference:
        measure_reference(arguments.reference)
    CARD_TEXT.write_text(card(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
    REVIEW_SCHEMA.write_text(review_schema(), encoding="utf-8")
    NOTICE_SCHEMA.write_text(notice_schema(), encoding="utf-8")
    SETTINGS.write_text(settings(), encoding="utf-8")
    VERDICT.write_text(verdict(), encoding="utf-8")
    TEMPLATE.write_text(template(), encoding="utf-8")
    if arguments.screenshots:
        screenshots()
