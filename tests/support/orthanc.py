"""Run a real Orthanc on the loopback, as the PACS of tests."""

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.machines import Process, free_port, listens, wait_for

_ORTHANC, _DICOMWEB = "/usr/sbin/Orthanc", "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
IS_INSTALLED = Path(_ORTHANC).exists()
needs_orthanc = pytest.mark.skipif(not IS_INSTALLED, reason="needs Debian's orthanc")
needs_dicomweb = pytest.mark.skipif(not Path(_DICOMWEB).exists(), reason="needs Debian's orthanc-dicomweb")


class Orthanc:
    """Hold where an Orthanc is, whether it runs or not."""

    def __init__(self, folder: Path, modalities: Mapping[str, object], **settings: object) -> None:
        self.folder, self.port, self.dicom_port = folder, free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        known = {
            "HttpPort": self.port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "DicomModalities": modalities,
            "Plugins": [_DICOMWEB] if Path(_DICOMWEB).exists() else [],
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
        }
        folder.mkdir(exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps({**known, **settings}))

    @contextmanager
    def running(self) -> Iterator["Orthanc"]:
        """Run it; kill it at the end, so that it may be started again."""
        process = Process([_ORTHANC, str(self.folder / "orthanc.json")], self.folder / "orthanc.log")
        try:
            wait_for(lambda: listens(self.port) and listens(self.dicom_port), what="Orthanc")
            yield self
        finally:
            process.kill()

    def get(self, path: str) -> Any:
        """Return what it answers."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Send it something; return its answer."""
        with urllib.request.urlopen(self.url + path, body, timeout=30) as answer:
            return dict(json.loads(answer.read() or b"{}"))

    def kinds(self) -> list[tuple[str, str]]:
        """Return study and modality of each object that it holds."""
        found = []
        for one in self.get("/instances"):
            tags = self.get(f"/instances/{one}/simplified-tags")
            found.append((tags["StudyInstanceUID"], tags["Modality"]))
        return sorted(found)
