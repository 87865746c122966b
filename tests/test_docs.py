"""The documents describe the code as it is."""

import hashlib
import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml
from typer.core import TyperGroup

from cxr.commands import app
from model import SHIPPED
from model.evaluate.card import REFERENCE, shipped_card
from model.serve.engine import Engine
from pipeline.settings import load_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("model/**/*.md")]


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs/make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date(make: ModuleType) -> None:
    assert make.SCHEMA.read_text(encoding="utf-8") == make.schema()
    assert make.NOTICE_SCHEMA.read_text(encoding="utf-8") == make.notice_schema()
    assert make.REVIEW_SCHEMA.read_text(encoding="utf-8") == make.review_schema()
    assert make.SETTINGS.read_text(encoding="utf-8") == make.settings()
    assert make.VERDICT.read_text(encoding="utf-8") == make.verdict()
    assert make.TEMPLATE.read_text(encoding="utf-8") == make.template()
    assert make.template().count("m7i.large") == 3
    assert make.settings().count("| `CXR_") >= 8


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    text = _without_code(path.read_text(encoding="utf-8"))
    for link in re.findall(r"""(?:\]\(|srcset="|src=")(?!https?:)([^)"]+)""", text):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def _without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)


def _anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", _without_code(path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    text = _without_code((ROOT / "README.md").read_text(encoding="utf-8"))
    shown = re.sub(r"\]\([^)]*\)", "]", re.sub(r"<!--.*?-->|<[^>]*>", "", text, flags=re.S))
    assert 400 < len(re.findall(r"[^\s|]*\w[^\s|]*", shown)) <= 900


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    named = {link for link in re.findall(r"\]\(([^)]+)\)", index) if "/" not in link}
    assert named >= {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}


def test_the_comparison_has_fifteen_rows() -> None:
    rows = re.findall(r"^\| \*\*.*\|$", (ROOT / "docs/compared.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) == 15
    assert {row.count(" | ") for row in rows} == {4}


def test_the_readmes_figures_are_those_of_the_card() -> None:
    figures = shipped_card().originals
    assert figures.auc
    assert figures.right_when_certain
    shown = [f"{figures.auc.value:.3f}"]
    shares = (figures.at_decision.accuracy, figures.uncertain, figures.right_when_certain)
    shown += [f"{share.value:.1%}".replace("%", " %") for share in shares]
    row = f"| cxr 3, {figures.images} X-rays of other patients of the same archive | {' | '.join(shown)} |"
    assert row in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_guide_to_changes_names_real_files() -> None:
    text = (ROOT / "docs/changing.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+\.(?:py|md|js|html|json|yaml))`", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_documents_name_real_commands_options_and_targets() -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    real = dict(root.commands)
    for path in DOCUMENTS:
        if path.name == "CHANGELOG.md":
            continue  # it also names commands of earlier releases
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"(?:^|`|bin/)cxr ([a-z]+(?:-[a-z]+)*)", text, re.M):
            assert name in real, f"{path}: cxr {name}"
        for name, rest in re.findall(r"(?:^|`|bin/|\d )cxr ([a-z]+(?:-[a-z]+)*) ([^`\n#]*)", text, re.M):
            known = {option for parameter in real[name].params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known | {"--help"}, (
                f"{path}: cxr {name} {rest}"
            )
    using = (ROOT / "docs/using.md").read_text(encoding="utf-8")
    assert {name for name in real if f"`cxr {name}" in using} == set(real)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name in ("README.md", "CONTRIBUTING.md", "docs/aws.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:^|`)make (\w+)", text, re.M)) <= targets


def test_the_card_is_that_of_the_weights_beside_it(make: ModuleType) -> None:
    card = shipped_card()
    hashes = {SHIPPED: card.sha256, REFERENCE: card.reference_sha256}
    for path, stated in hashes.items():
        content = path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == stated
        assert b"site-packages" not in content  # nor anything else of the machine that wrote it
    assert sum(path.stat().st_size for path in hashes) < 20_000_000
    assert card.parameters < 5_000_000
    assert card.calibration == Engine().calibration
    assert make.CARD_TEXT.read_text(encoding="utf-8") == make.card()


def test_the_cluster_of_the_documents_has_no_key_and_no_address() -> None:
    cluster = yaml.safe_load((ROOT / "docs/ray.yaml").read_text(encoding="utf-8"))
    assert set(cluster["auth"]) == {"ssh_user"}
    assert cluster["provider"]["use_internal_ips"] is True
    nodes = [kind["node_config"] for kind in cluster["available_node_types"].values()]
    assert all(node["MetadataOptions"]["HttpTokens"] == "required" for node in nodes)
    assert not any("KeyName" in node or "NetworkInterfaces" in node for node in nodes)


@pytest.mark.whole
def test_no_key_and_no_open_door_in_the_repository() -> None:
    bad = re.compile(r"AutoAdd" r"Policy|BEGIN [A-Z ]*PRIVATE" r" KEY|0\.0\.0\.0/" r"0|verify=" r"False")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        assert not bad.search((ROOT / name).read_text(encoding="utf-8", errors="replace")), name


def test_the_documents_settings_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/settings.md", "docs/pacs.md")]
    examples = [found for text in texts for found in re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)]
    assert len(examples) >= 4
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.toml"
        path.write_text(example, encoding="utf-8")
        monkeypatch.setenv("CXR_CONFIG", str(path))
        assert {"root", "bucket", "dicom_port"} & load_settings().model_fields_set
