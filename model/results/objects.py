"""Make what a report and a capture have in common: their names, their header, and the file.

All of it comes from the source and the verdict, nothing from the clock, so that a result made again is the
same to the byte.
"""

import hashlib
import io
import logging
import uuid
import warnings
from dataclasses import dataclass
from datetime import UTC
from typing import Literal

from highdicom.sr import CodedConcept
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from model.results.belonging import MAKER, Belonging
from pipeline.dicom.codes import Code
from pipeline.verdict import VERSION, Verdict

for _library in ("pydicom", "highdicom"):  # their warnings and logs quote values, such as a name
    logging.getLogger(_library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=_library)

_Kind = Literal["report", "capture"]
_SOFTWARE = UID("2.25.271950143903174620164286731092471856330")  # identifies this implementation
# What patient and study share with the source.
_SHARED = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
)
_SHARED_IF_STATED = (
    *("StudyDescription", "IssuerOfPatientID", "PatientAge", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "TimezoneOffsetFromUTC"),
)


@dataclass(frozen=True)
class Names:
    """Derive the UIDs of a result: from its source's UID and ETag, the network, and what the verdict says.

    The last because another threshold or prevalence gives another answer of the same network, and two
    different objects must not have one UID. Times are left out: the same answer again is the same object.
    """

    seed: str
    device: str  # the network as a device, the same for all X-rays

    @classmethod
    def of(cls, verdict: Verdict, belonging: Belonging) -> "Names":
        """Derive the names of a verdict's result."""
        network = verdict.model.sha256 if verdict.model else f"release {verdict.release.number}"
        said = verdict.model_dump_json(include={"status", "finding", "warnings", "reason"})
        parts = (
            belonging["StudyInstanceUID"],
            belonging["SOPInstanceUID"],
            verdict.source.etag,
            network,
            said,
        )
        return cls("\n".join(parts), _uid(f"device\n{network}"))

    @property
    def tracking(self) -> str:
        """Return the UID by which a reader follows this finding."""
        return _uid(f"tracking\n{self.seed}")

    def series(self, kind: _Kind) -> str:
        """Return the UID of a series of this one object."""
        return _uid(f"series of the {kind}\n{self.seed}")

    def instance(self, kind: _Kind) -> str:
        """Return the UID of the object."""
        return _uid(f"{kind}\n{self.seed}")


def _uid(seed: str) -> str:
    """Return a UID from a hash: that of a UUID of version 8 (PS3.5 B.2)."""
    digest = hashlib.sha256(f"CXR Inbox 1\n{seed}".encode()).digest()
    number = int.from_bytes(digest[:16], "big") & ~(0xF << 76) & ~(0x3 << 62) | 8 << 76 | 2 << 62
    return f"2.25.{uuid.UUID(int=number).int}"


def header(verdict: Verdict, belonging: Belonging, names: Names, kind: _Kind, sop_class: str) -> Dataset:
    """Return a dataset with patient, study, series, equipment and the date of the verdict.

    The date is in the source's time zone, or in UTC where the source states none.
    """
    made, moment = Dataset(), verdict.finished_at.astimezone(belonging.zone or UTC)
    if belonging.charset:
        made.SpecificCharacterSet = list(belonging.charset)
    for word in _SHARED:
        setattr(made, word, belonging[word])
    for word in _SHARED_IF_STATED:
        if belonging[word]:
            setattr(made, word, belonging[word])
    if belonging["PatientIdentityRemoved"] == "YES" and not belonging["DeidentificationMethod"]:
        made.DeidentificationMethod = "As in the source image"
    made.SOPClassUID, made.SOPInstanceUID = sop_class, names.instance(kind)
    made.SeriesInstanceUID, made.InstanceNumber = names.series(kind), 1
    made.ContentDate, made.ContentTime = f"{moment:%Y%m%d}", f"{moment:%H%M%S.%f}"
    release = plain_text(f"{verdict.release.version} ({verdict.release.number})", 64)
    made.Manufacturer, made.SoftwareVersions = MAKER, release
    if verdict.model:
        made.ManufacturerModelName = network_name(verdict)
        made.DeviceSerialNumber = plain_text(verdict.model.sha256, 64)
    return made


def network_name(verdict: Verdict) -> str:
    """Return the network's name and version; ours where there was no network."""
    return plain_text(f"{verdict.model.name} {verdict.model.version}", 64) if verdict.model else MAKER


def plain_text(text: str, most: int = 1024) -> str:
    """Return a text that every character set can write, and at most so many characters of it."""
    return text.encode("ascii", "replace").decode().replace("\\", "/").strip()[:most] or "-"


def concept(code: Code) -> CodedConcept:
    """Return a code as an item of a DICOM object."""
    return CodedConcept(*code)


def encoded(made: Dataset) -> bytes:
    """Return the object as a DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID, meta.ImplementationVersionName = _SOFTWARE, f"CXR_INBOX_{VERSION}"[:16]
    made.file_meta = meta
    file = io.BytesIO()
    dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()
