"""Names of a patient stay in the dropped file: they are planted everywhere and found nowhere else."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import uid
from pydicom.dataset import Dataset

from pipeline.events import s3_event
from pipeline.store.folder import FolderStore
from pipeline.verdict import Verdict
from tests.support import dicoms, pictures
from tests.support.dicom_senders import Raw, data_set, send, served
from tests.support.engine_child import DEFECT
from tests.support.fakes import XRAYS
from tests.support.machines import ROOT, wait_for
from tests.web.test_stow import Site

# Of the contents. Of the file names only what must not get into a log: verdict, index and page show them.
SECRETS = ("Zaphod", "Beeblebrox", "770077", "19520304", "1952-03-04", "Betelgeuse")
FILE_NAME = "Trillian"
NAME, NUMBER, BORN, PLACE = "Zaphod^Beeblebrox", "ID-770077", "19520304", "Betelgeuse"

# All loggers of the process down to DEBUG, all Python warnings, and an engine that fails over some files.
RUN = """
import logging, sys, warnings
warnings.simplefilter("always")
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
import cxr
from cxr import local
from model.serve import process
process.CHILD[:] = [sys.executable, "-m", "tests.support.engine_child"]
local._PAUSES = (0.0, 0.0)
command, exports = sys.argv[1:5], sys.argv[5:]
for words in (command, *(["export-dicom", name, *command[2:], "--out", exports[0]] for name in exports[1:])):
    sys.argv[1:] = words
    try:
        cxr.main()
    except SystemExit:
        pass
"""


def tagged(**tags: object) -> Dataset:
    """Return a DICOM file that names its patient wherever it can."""
    nested = Dataset()
    nested.PatientName, nested.PatientID, nested.CodeMeaning = NAME, NUMBER, f"{PLACE} view"
    nested.ReferencedPatientSequence = [Dataset()]
    nested.ReferencedPatientSequence[0].PatientComments = f"{NAME} of {PLACE}"
    known: dict[str, object] = {
        "PatientName": NAME,
        "PatientID": NUMBER,
        "PatientBirthDate": BORN,
        "PatientAge": None,
        "StudyDate": "19550304",
        "PatientComments": f"{NAME}, {NUMBER}",
        "PatientAddress": PLACE,
        "InstitutionName": PLACE,
        "ReferringPhysicianName": NAME,
        "AccessionNumber": "770077",
        "StudyDescription": f"chest of {NAME}",
        "StudyInstanceUID": "1.2.770077.1",
        "SeriesInstanceUID": "1.2.770077.2",
        "SOPInstanceUID": "1.2.770077.19520304",
        "RequestAttributesSequence": [nested],
        "ViewCodeSequence": [nested],
    }
    found = dicoms.dataset(**(known | tags))
    block = found.private_block(0x0011, "Betelgeuse devices", create=True)
    block.add_new(0x01, "LO", NAME)
    block.add_new(0x02, "SQ", [nested])
    found.file_meta.SourceApplicationEntityTitle = "Betelgeuse"
    found.file_meta.PrivateInformationCreatorUID = "1.2.770077"
    found.file_meta.PrivateInformation = NAME.encode() + b"\0"
    return found


def ill_tagged(keyword: str, text: str) -> bytes:
    """Return a file with the name in a number, date or code, where pydicom's warning quotes it."""
    found = tagged(**{keyword: "1"})
    whole = dicoms.written(found)
    element = found[keyword]
    tag = bytes(
        (element.tag.group & 255, element.tag.group >> 8, element.tag.elem & 255, element.tag.elem >> 8)
    )
    head = tag + element.VR.encode()
    start = whole.index(head)
    length = int.from_bytes(whole[start + 6 : start + 8], "little")
    value = text.encode() + b" " * (len(text) % 2)
    return whole[:start] + head + len(value).to_bytes(2, "little") + value + whole[start + 8 + length :]


def jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = NAME, f"{NAME} {PLACE}", b"ASCII\0\0\0" + NUMBER.encode()
    exif.get_ifd(0x8769)[0x9003] = "1952:03:04 00:00:00"
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{NAME} {NUMBER} 1952-03-04</x:xmpmeta>".encode()
    return pictures.encoded(pictures.sample(), "JPEG", exif=exif, xmp=xmp, comment=NAME.encode())


def png() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("PatientName", NAME)
    text.add_text("Comment", NUMBER, zip=True)
    text.add_itxt("XML:com.adobe.xmp", f"<x:xmpmeta>{NAME} {BORN}</x:xmpmeta>")
    return pictures.encoded(pictures.sample(), "PNG", pnginfo=text)


def tiff() -> bytes:
    return pictures.encoded(pictures.sample(), "TIFF", tiffinfo={270: f"{NAME} {NUMBER}", 315: NAME})


def rle() -> bytes:
    found = tagged()
    found.compress(uid.RLELossless, generate_instance_uid=False)
    return dicoms.written(found)


PLANTED: dict[str, Callable[[], bytes]] = {
    "1.dcm": lambda: dicoms.written(tagged()),
    "2.dcm": lambda: dicoms.written(tagged(), uid.ImplicitVRLittleEndian),
    "3.dcm": rle,
    "4 SpecificCharacterSet.dcm": lambda: ill_tagged("SpecificCharacterSet", NAME),
    **{
        f"5 {keyword}.dcm": lambda keyword=keyword: ill_tagged(keyword, NAME)
        for keyword in (
            *("Modality", "BodyPartExamined", "ViewPosition", "BurnedInAnnotation", "ConversionType"),
            *("PatientAge", "StudyDate", "PatientBirthDate", "SOPInstanceUID", "SOPClassUID"),
            *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "NumberOfFrames"),
            *("PhotometricInterpretation", "VOILUTFunction", "PatientOrientation"),
        )
    },
    "6 cut.dcm": lambda: dicoms.written(tagged())[:-9000],
    "7 cut.dcm": lambda: dicoms.written(tagged())[:700],
    "8.jpeg": jpeg,
    "9 cut.jpeg": lambda: jpeg()[:9000],
    "10.png": png,
    "11 cut.png": lambda: png()[:9000],
    "12.tiff": tiff,
    "13 boom.dcm": lambda: NAME.encode() + DEFECT,
    "14.txt": lambda: f"{NAME}, {NUMBER}, born {BORN}".encode(),
}


# Results as DICOM are made of these; the last two cannot be.
EXPORTED = ("1.dcm", "2.dcm", "5 PatientAge.dcm", "6 cut.dcm", "13 boom.dcm", "8.jpeg")


def results_of(root: Path) -> Path:
    """Return the folder for the results, outside the root."""
    return root.with_name("results")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Run all planted files through local mode; return its root, standard output and log."""
    root = tmp_path_factory.mktemp("root")
    names = {f"{FILE_NAME} {name}": make for name, make in PLANTED.items()}
    (root / "inbox").mkdir()
    for name, make in names.items():
        (root / "inbox" / name).write_bytes(make())
    with (root / "inbox" / f"{FILE_NAME} large.dcm").open("wb") as file:
        file.truncate(100_000_000)
    (root / "outbox" / f"{FILE_NAME} no place.png.json").mkdir(parents=True)
    extra = (f"{FILE_NAME} large.dcm", f"{FILE_NAME} no place.png", f"{FILE_NAME} gone.dcm", FILE_NAME * 40)
    (root / "inbox" / f"{FILE_NAME} no place.png").write_bytes(png())
    event = root / "event.json"
    event.write_text(json.dumps(s3_event("b", [f"inbox/{name}" for name in (*names, *extra)])))
    exports = [f"{FILE_NAME} {name}" for name in EXPORTED]
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            RUN,
            "replay",
            str(event),
            "--root",
            str(root),
            str(results_of(root)),
            *exports,
        ],
        env={"CXR_LOG_LEVEL": "DEBUG", "PATH": ""},
        capture_output=True,
        timeout=100,
        check=False,
    )
    return root, answer.stdout.decode(), answer.stderr.decode()


def test_every_planted_file_has_its_verdict(outcome: tuple[Path, str, str]) -> None:
    """Ensure that the tests below do not pass on nothing."""
    root, _, log = outcome
    statuses = {}
    for path in (root / "outbox").glob("*.json"):
        if path.is_file():
            statuses[path.name] = Verdict.from_json(path.read_bytes()).status
    assert set(PLANTED) <= {name.removeprefix(f"{FILE_NAME} ").removesuffix(".json") for name in statuses}
    good = [f"{FILE_NAME} {name}.json" for name in ("1.dcm", "2.dcm", "3.dcm", "8.jpeg", "10.png", "12.tiff")]
    assert {statuses[name] for name in good} == {"classified"}
    assert statuses[f"{FILE_NAME} 13 boom.dcm.json"] == "failed"
    assert "DEBUG" in log
    assert "RuntimeError at" in log


def test_the_contents_get_nowhere(outcome: tuple[Path, str, str]) -> None:
    root, output, log = outcome
    written = [path for path in root.rglob("*") if path.is_file() and path.parent != root / "inbox"]
    assert any(path.suffix == ".jpg" for path in written)
    assert any(path.name.startswith("index.sqlite") for path in written)
    contents = {path.name: path.read_bytes() for path in written} | {
        "standard output": output.encode(),
        "log": log.encode(),
    }
    for place, content in contents.items():
        found = [secret for secret in SECRETS if secret.lower().encode() in content.lower()]
        assert not found, place


def test_the_dicom_node_tells_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with served(tmp_path, FolderStore(tmp_path), dicom_idle_seconds=0.3) as node:
        assert send(node.port, dicoms.written(tagged()), calling="BEEBLEBROX") == [0]
        assert send(node.port, dicoms.written(tagged(StudyDescription="another"))) == [0]
        assert send(node.port, dicoms.written(tagged(BodyPartExamined="HAND"))) == [0]  # the same UID
        assert send(node.port, dicoms.dicom(), called="BEEBLEBROX") == [-1]
        with Raw(node.port) as raw:
            assert raw.request(sop_class="1.2.770077", syntax="Zaphod.19520304") == 2
        for sent in (data_set(tagged(SOPInstanceUID="1.2.3")), data_set(tagged())[:300], NAME.encode()):
            with Raw(node.port) as raw:
                raw.request()
                raw.store("1.2.770077.19520304")
                raw.data(sent)
                assert raw.status() >= 0xA000
                raw.store(NAME)
                raw.fragment(3, NAME.encode())
                raw.answer()
        wait_for(lambda: "same UID" in caplog.text and "breaks the rules" in caplog.text)
    said = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("pipeline"))
    assert "received" in said
    assert not [secret for secret in (*SECRETS, NUMBER) if secret.lower() in said.lower()]
    names = [path.name for path in (tmp_path / "inbox").iterdir()]
    assert not [secret for secret in SECRETS if any(secret in name for name in names)]


def test_dicomweb_and_fhir_tell_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site = Site(tmp_path, FolderStore(tmp_path))
    sent = [dicoms.written(tagged()), dicoms.written(tagged(BodyPartExamined="HAND")), NAME.encode()]
    site.stow(*sent, dicoms.written(tagged())[:3000], code=202)
    site.stow(*sent, code=409, study="1.2.770077")
    site.refused(400, data=sent[0], path=f"/dicom-web/studies/{NAME}")
    site.refused(415, data=sent[0], kind=f"multipart/{NAME}")
    site.index.wait([f"inbox/{FILE_NAME}.dcm"], datetime.now(UTC))
    reports = site.client.get("/fhir/DiagnosticReport").get_data(as_text=True)
    assert FILE_NAME in reports
    site.client.get("/fhir/DiagnosticReport", query_string={"patient": NAME})
    site.client.get(f"/fhir/{NAME}")
    site.index.close()
    said = caplog.text + (tmp_path / "audit.jsonl").read_text()
    assert "refused" in said
    told = [secret for secret in (*SECRETS, NUMBER, FILE_NAME) if secret.lower() in said.lower()]
    assert told == []
    assert not [secret for secret in SECRETS if secret in "".join([reports, *site.inbox()])]


def test_previews_are_pixels_alone(outcome: tuple[Path, str, str]) -> None:
    for path in (outcome[0] / "outbox/.previews").rglob("*.jpg"):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            assert np.asarray(image).ndim == 2


def test_a_result_for_the_pacs_names_the_patient_and_not_the_hospital(outcome: tuple[Path, str, str]) -> None:
    root, output, log = outcome
    files = {path: path.read_bytes() for path in results_of(root).iterdir()}
    kinds = sorted(path.name.partition("-")[0] for path in files)
    assert kinds == ["capture"] * 3 + ["report"] * 4
    assert {Path(line) for line in output.splitlines() if line.endswith(".dcm")} == set(files)
    for content in files.values():
        assert all(planted.encode() in content for planted in (NAME, NUMBER, BORN, "1.2.770077.1"))
        assert PLACE.encode() not in content
        assert FILE_NAME.encode() not in content
    assert log.count("cxr: the X-ray is not a DICOM file") == 2


def test_no_log_names_a_file(outcome: tuple[Path, str, str]) -> None:
    lines = [line for line in outcome[2].splitlines() if FILE_NAME.lower() in line.lower()]
    assert lines == []


def test_the_inference_library_keeps_and_reports_nothing(tmp_path: Path) -> None:
    """It would keep an identifier in the user's folder, and report each process to its maker."""
    command = [sys.executable, "-m", "cxr", "classify", str(XRAYS[0])]
    # Without the variables of a test service: under one, it would report nothing anyway.
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run(command, cwd=ROOT, env=env, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
