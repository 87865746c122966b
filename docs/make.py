"""Writes what the documents take from the code: `python docs/make.py [--screenshots]`.

The schema, the README's tables of settings and of what the network says of the samples; and, with Debian's
chromium, the screenshots, of synthetic samples only. `tests/test_docs.py` fails when a document is out of
date.
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

from model.engine import Engine
from pipeline.settings import Settings
from pipeline.verdict import DOUBTS, json_schema
from pipeline.verdict import SCHEMA as SCHEMA_NAME

ROOT = Path(__file__).parents[1]
README, SCHEMA = ROOT / "README.md", ROOT / "docs" / "verdict.schema.json"
SAMPLES = ROOT / "events" / "samples"


def schema() -> str:
    """The verdict's JSON Schema."""
    return json.dumps(json_schema(), indent=1) + "\n"


def readme() -> str:
    """The README with its tables as they should be."""
    text = README.read_text(encoding="utf-8")
    for name, table in (
        ("example", example()),
        ("samples", samples_table()),
        ("settings", settings_table()),
    ):
        text = re.sub(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\1{table}\2", text, flags=re.DOTALL)
    return text


def example() -> str:
    """The fields of one sample's verdict that matter most, without its map."""
    path = SAMPLES / "pneumonia-1.jpeg"
    seen = Engine().examine(path.read_bytes())
    source = {"key": f"inbox/{path.name}", "media_type": seen.facts.media_type}
    finding = seen.finding.model_dump(exclude={"map", "pattern"})
    verdict = {"schema": SCHEMA_NAME, "status": "classified", "source": source, "finding": finding}
    return f"```json\n{json.dumps({**verdict, 'warnings': seen.warnings}, indent=1)}\n```\n"


def samples_table() -> str:
    """What the shipped network says of each sample."""
    engine = Engine()
    lines = ["| sample | drawn as | the network says | P(pneumonia) | |", "|---|---|---|---|---|"]
    for path in sorted(SAMPLES.glob("*.jpeg")):
        seen = engine.examine(path.read_bytes())
        finding, warnings = seen.finding, ", ".join(word for word in seen.warnings if word in DOUBTS)
        drawn = path.stem.split("-")[0]
        lines.append(
            f"| `{path.name}` | {drawn} | {finding.label} | {finding.probability:.2f} | {warnings} |"
        )
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """Every setting, its default and what it is for."""
    lines = ["| variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f"`{field.default}`"
        lines.append(f"| `CXR_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def screenshots() -> None:
    """The worklist and one X-ray, dark, as a new user sees them."""
    from playwright.sync_api import sync_playwright

    with _page() as url, sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_page(viewport={"width": 1180, "height": 760}, device_scale_factor=1.5)
        for name, path in (("worklist", "/"), ("xray", "/xray/pneumonia-1.jpeg")):
            page.goto(url + path)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=ROOT / "docs" / f"{name}.png")
        browser.close()


@contextmanager
def _page() -> Iterator[str]:
    """A `cxr up` over the samples, all of them judged; yields its address."""
    with TemporaryDirectory() as root:
        (Path(root) / "inbox").mkdir()
        command = [sys.executable, "-m", "cxr", "up", "--root", root, "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            url = process.stdout.readline().split()[4]
            for path in sorted(SAMPLES.glob("*.jpeg")):
                shutil.copy(path, Path(root) / "inbox")
                time.sleep(0.3)
            time.sleep(2)
            yield url
            process.terminate()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--screenshots", action="store_true")
    SCHEMA.write_text(schema(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
    if parser.parse_args().screenshots:
        screenshots()
