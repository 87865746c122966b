"""Find the training data and split it by patient.

A data set is a folder that holds `NORMAL/` and `PNEUMONIA/` at any depth, as Kermany's does (doi
10.17632/rscbjbr9sj.3). A `manifest.csv` in it, or up to two folders above it, may say more about each file:
`patient_key`, `subtype`, and `original_here`. Patients with `original_here` form the fixed fold, which is
only reported on, never used for training, calibration or selection.
"""

import csv
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.serve.preprocess import as_copy
from pipeline.errors import UsageError

Fold = Literal["train", "validation", "report"]
CLASSES = {"NORMAL": 0, "PNEUMONIA": 1}
SUFFIXES = {".jpeg", ".jpg", ".png"}
VALIDATION_SHARE = 0.1  # of the patients outside the fixed fold
ERAS = 4
REPORT_SHARE = 0.1  # of all patients, when no manifest names a fixed fold


@dataclass(frozen=True)
class Sample:
    """Describe one image of the data set."""

    path: Path
    label: int  # 0 normal, 1 pneumonia
    viral: int  # 1 viral, 0 bacterial, -1 not known or normal
    patient: str
    fold: Fold
    era: int = 0  # 0 to ERAS - 1, by the patient's number within its class


@dataclass(frozen=True)
class Origin:
    """Describe an image as it was before any copy of it was resized."""

    width: int | None  # pixels; None when a manifest gives other sizes but not this one
    height: int | None
    colour: bool  # whether the file is stored in colour, which an X-ray does not need


def load_samples(data: Path, suffixes: Collection[str] | None = SUFFIXES) -> list[Sample]:
    """Load all images under `data`, each once (by content), with labels from folders and folds by patient.

    Only files with these suffixes are read; None reads files of any name that are not hidden. Raises
    UsageError when a class is missing.
    """
    manifest = _read_manifest(data)
    fixed = {row["patient_key"] for row in manifest.values() if row.get("original_here") == "1"}
    samples = [_sample(path, manifest.get(path.name, {}), fixed) for path in _images(data, suffixes)]
    labels = {sample.label for sample in samples}
    missing = " and ".join(f"{name}/" for name, label in CLASSES.items() if label not in labels)
    if missing:
        raise UsageError(f"{data} holds no {missing} images; name the folder that has NORMAL/ and PNEUMONIA/")
    return _with_eras(_without_copies(samples))


def load_origins(data: Path, samples: Iterable[Sample]) -> list[Origin]:
    """Load the original size and colour mode of each sample.

    When a manifest gives original sizes, the files may be resized copies, so only the manifest is used.
    Otherwise the files are the originals.
    """
    manifest = _read_manifest(data)
    rows = [(sample.path, manifest.get(sample.path.name, {})) for sample in samples]
    resized = any(row.get("original_width") for _, row in rows)
    return [_origin(path, row, resized) for path, row in rows]


def load_pixels(samples: Iterable[Sample]) -> npt.NDArray[np.uint8]:
    """Return the images as [N, 224, 224] 8-bit gray (see `as_copy`), before augmentation and resizing."""
    return np.stack([_pixels(sample.path) for sample in samples])


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    with _opened(path) as image:
        return np.asarray(as_copy(image.convert("L")))


def _origin(path: Path, row: dict[str, str], resized: bool) -> Origin:
    with _opened(path) as image:
        colour = len(image.getbands()) >= 3
        width, height = row.get("original_width"), row.get("original_height")
        if width and height:
            return Origin(int(width), int(height), colour)
        return Origin(None, None, colour) if resized else Origin(*image.size, colour)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; raise UsageError when it cannot be opened or decoded."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"{path} cannot be read as an image: remove it, or export it again") from error


def _images(data: Path, suffixes: Collection[str] | None) -> Iterator[Path]:
    for path in sorted(data.rglob("*")):
        is_fit = path.suffix.lower() in suffixes if suffixes is not None else path.is_file()
        if is_fit and _class_of(path) is not None and not path.name.startswith("."):
            yield path


def _class_of(path: Path) -> int | None:
    return next((CLASSES[part] for part in reversed(path.parts[:-1]) if part in CLASSES), None)


def _read_manifest(data: Path) -> dict[str, dict[str, str]]:
    for folder in (data, *data.resolve().parents[:2]):
        path = folder / "manifest.csv"
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    return {row["file"]: row for row in csv.DictReader(file)}
            except (OSError, ValueError, KeyError, csv.Error) as error:
                reason = "it must be a UTF-8 CSV table with the columns `file` and `patient_key`"
                raise UsageError(f"{path} cannot be read: {reason}") from error
    return {}


def _sample(path: Path, row: dict[str, str], fixed: set[str]) -> Sample:
    label = _class_of(path)
    assert label is not None
    patient = row.get("patient_key") or patient_of(path.name, _folder_in_class(path))
    kind = row.get("subtype") or path.name.lower()
    viral = -1 if label == 0 else 1 if "virus" in kind else 0 if "bacteria" in kind else -1
    fold = "report" if patient in fixed else _fold(patient, report=0.0 if fixed else REPORT_SHARE)
    return Sample(path, label, viral, patient, fold)


def patient_of(name: str, folder: str = "") -> str:
    """Return the patient that a file name of this data set means: `person12_virus_3.jpeg`,
    `IM-0115-0001.jpeg`.

    Each folder counts as a patient of its own, because viewers export every patient as `IM-0001-0001.dcm`.
    """
    match = re.match(r"(person\d+|(?:NORMAL2-)?IM-\d+)", name)
    return f"{folder}/{match.group(1) if match else Path(name).stem}".removeprefix("/")


def _folder_in_class(path: Path) -> str:
    parts = path.parts[:-1]
    classes = [place for place, part in enumerate(parts) if part in CLASSES]
    return "/".join(parts[classes[-1] + 1 :])


def _fold(patient: str, report: float) -> Fold:
    """Draw a fold from the patient's name alone, the same on every machine and in every order."""
    draw = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 2**32
    if draw < report:
        return "report"
    return "validation" if draw < report + VALIDATION_SHARE else "train"


def _without_copies(samples: list[Sample]) -> list[Sample]:
    """Drop repeated contents but keep the copy in the most protected fold, so that no fold leaks into
    another.
    """
    order = {"report": 0, "validation": 1, "train": 2}
    kept: dict[str, Sample] = {}
    for sample in sorted(samples, key=lambda sample: order[sample.fold]):
        try:
            content = hashlib.sha256(sample.path.read_bytes()).hexdigest()
        except OSError as error:
            raise UsageError(f"{sample.path} cannot be read ({error.strerror})") from error
        kept.setdefault(content, sample)
    return sorted(kept.values(), key=lambda sample: sample.path)


def _with_eras(samples: list[Sample]) -> list[Sample]:
    """Number the eras: an archive numbers its patients in order of arrival, so distant numbers mean distant
    years.
    """
    era_of: dict[tuple[int, str], int] = {}
    for label in CLASSES.values():
        patients = sorted({sample.patient for sample in samples if sample.label == label}, key=_counted)
        era_of |= {(label, patient): ERAS * place // len(patients) for place, patient in enumerate(patients)}
    return [replace(sample, era=era_of[sample.label, sample.patient]) for sample in samples]


def _counted(patient: str) -> tuple[str, int, str]:
    """Return a sort key that orders names by their last number: IM-0999 before IM-1000, all IM before
    NORMAL2-IM.
    """
    parts = re.split(r"(\d+)$", patient)
    return (parts[0], int(parts[1]), "") if len(parts) > 1 else (patient, 0, "")
