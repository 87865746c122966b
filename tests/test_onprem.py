"""The files in docs/onprem fit each other, the program and the documents."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
ONPREM = ROOT / "docs/onprem"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
ORTHANC = json.loads((ONPREM / "orthanc.json").read_text())


def settings(name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("CXR_CONFIG", str(ONPREM / name))
    return load_settings()


def test_the_containers_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, [destination] = settings("cxr.toml", monkeypatch), settings("cxr.toml", monkeypatch).send
    node = ORTHANC["DicomModalities"]["cxr"]
    assert (node["AET"], node["Host"], node["Port"]) == (inbox.ae_title, "cxr", inbox.dicom_port)
    title, port = ORTHANC["DicomAet"], ORTHANC["DicomPort"]
    assert str(destination.to) == f"dicom://{title}@orthanc:{port}"
    assert inbox.calling_ae_titles == (title,)
    [network] = COMPOSE["networks"]["dicom"]["ipam"]["config"]
    assert inbox.dicom_callers == (network["subnet"],)
    assert {"cxr", "orthanc"} == set(COMPOSE["services"])
    mounted = [volume.split(":")[0] for each in COMPOSE["services"].values() for volume in each["volumes"]]
    assert all((ROOT / path).exists() for path in mounted if path.startswith("."))


def test_nothing_is_published_to_the_network() -> None:
    ports = [port for each in COMPOSE["services"].values() for port in each["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_service_has_settings_to_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = settings("server.toml", monkeypatch)
    unit = (ONPREM / "cxr-inbox.service").read_text()
    root = re.search(r"CXR_ROOT=(\S+)", unit)
    assert root is not None
    assert inbox.users == Path(root[1]) / "users"


@pytest.mark.whole
def test_the_unit_is_valid() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    command = ["systemd-analyze", "verify", "--man=no", str(ONPREM / "cxr-inbox.service")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr
    wrong = [
        line for line in said.splitlines() if "cxr-inbox.service" in line and "not executable" not in line
    ]
    assert wrong == []


def test_the_image_holds_every_package_and_no_image() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert packages <= kept
    assert not kept & {"events", "data", "docs", "tests"}
