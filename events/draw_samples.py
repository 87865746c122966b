"""Draw the samples: X-rays of nobody, chosen so that each state of a verdict is seen.

The radiographs are eigen-X-rays. Principal components of many training images, one of each patient, say how
radiographs differ; coefficients drawn anew give a radiograph that is nobody's, since each component is a sum
over hundreds of patients. Which verdict a sample gets is chosen: from a first draw, the coefficients walk
through their Gaussian until the shipped network says what the sample is to show (preconditioned
Crank-Nicolson steps; Cotter et al. 2013, arXiv:1202.0709). The end checks that no sample is as near to a
training image as two patients usually are to each other:

    python events/draw_samples.py DATA ADULTS [--out events/samples]

DATA holds NORMAL/ and PNEUMONIA/ at any depth, as `cxr train` takes it; ADULTS holds radiographs of adults.
"""

import argparse
import io
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from model.serve.engine import Engine
from pipeline.errors import InputRejected
from pipeline.settings import Settings

Array = NDArray[np.float32]

SIDE = 224  # pixels a side of the images that the components come from
COMPONENTS, COARSE = 250, 25  # at most, and those that count near the border
FILM = 1000, 800  # pixels
STEP, MOST_STEPS, NEAR = 0.25, 600, 0.015  # of the walk, which ends this near to the P that is wanted
MARGIN = 0.85  # of the limit of typicality, that a sample keeps to
LOOK = 64  # pixels a side at which films are compared
_ODD_KEYS = {"Röntgen 胸部 (1).jpeg": "pneumonia-1.jpeg", "ward 3 + 4, 100%.jpeg": "normal-2.jpeg"}


@dataclass(frozen=True)
class Wanted:
    """Say what a sample is to show."""

    population: str
    seed: int
    probability: float
    warnings: tuple[str, ...] = ()


SAMPLES = {
    "normal-1.jpeg": Wanted("NORMAL", 1, 0.02),
    "normal-2.jpeg": Wanted("NORMAL", 3, 0.04),
    "pneumonia-1.jpeg": Wanted("PNEUMONIA", 12, 0.98),
    "pneumonia-2.jpeg": Wanted("PNEUMONIA", 11, 0.96),
    "uncertain-1.jpeg": Wanted("PNEUMONIA", 21, 0.55),
    "adult-1.jpeg": Wanted("adults", 4, 1.0, ("other_population",)),
    "child-1.dcm": Wanted("NORMAL", 4, 0.06),
}


@dataclass(frozen=True)
class Population:
    """Hold how radiographs differ: their mean, principal components, and deviations along these."""

    mean: Array  # (SIDE * SIDE), grey levels
    components: Array  # (count, SIDE * SIDE), orthonormal
    deviations: Array  # (count)

    @classmethod
    def of(cls, images: Array) -> "Population":
        """Learn from images, (count, SIDE * SIDE), one of each patient."""
        mean = images.mean(0)
        centred = images - mean
        values, vectors = np.linalg.eigh(centred @ centred.T)
        count = min(COMPONENTS, len(images) // 4)  # more would follow single images of few
        values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
        components = (vectors.T @ centred) / np.sqrt(values)[:, None]
        return cls(mean, components, np.sqrt(values / len(images)))

    def radiograph(self, coefficients: Array) -> Array:
        """Return a radiograph, (SIDE, SIDE), from coefficients in units of the deviations.

        Near the border only the coarse components count, because letters are burned in there.
        """
        scaled = coefficients * self.deviations
        fine, coarse = (
            (self.mean + scaled[:count] @ self.components[:count]).reshape(SIDE, SIDE)
            for count in (len(scaled), COARSE)
        )
        y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
        from_border = np.minimum(np.minimum(x, 1 - x) * 2.2, np.minimum(y, 1 - y) * 3 + 0.35)
        inside = np.clip((from_border - 0.18) / 0.2, 0, 1)
        return np.asarray(inside * fine + (1 - inside) * coarse, np.float32)


def film(image: Array, seed: int) -> Image.Image:
    """Return a radiograph at the size of a film, with the edges and the grain of one."""
    small = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    large = small.resize(FILM, Image.Resampling.BICUBIC).filter(ImageFilter.UnsharpMask(12, 120, 0))
    white = np.random.default_rng(seed).normal(128, 40, FILM[::-1]).clip(0, 255).astype(np.uint8)
    grain = np.asarray(Image.fromarray(white).filter(ImageFilter.GaussianBlur(0.8)), np.float32) - 128
    pixels = np.asarray(large, np.float32)
    pixels = pixels + 0.16 * grain * np.clip(pixels / 110, 0.1, 1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image) -> bytes:
    """Return the file of an image."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=88)
    return data.getvalue()


def walk(population: Population, wanted: Wanted, engine: Engine) -> bytes:
    """Return a JPEG file of which the network says what is wanted."""
    rng = np.random.default_rng(wanted.seed)

    def gap(coefficients: Array) -> tuple[float, bytes]:
        """Return how far a radiograph is from what is wanted, and its file."""
        data = jpeg(film(population.radiograph(coefficients), wanted.seed))
        try:
            found = engine.examine(data)
        except InputRejected:
            return np.inf, data
        finding, wrong = found.finding, (set(found.warnings) - {"age_unknown"}) ^ set(wanted.warnings)
        typicality = finding.typicality
        assert typicality is not None
        # A margin, so that the sample in another file format gets the same verdict.
        strange = max(typicality.score / typicality.atypical_above - MARGIN, 0)
        return abs(finding.probability - wanted.probability) + strange + len(wrong), data

    count = len(population.deviations)
    now = rng.normal(size=count)
    best, data = gap(now)
    for _ in range(MOST_STEPS):
        if best < NEAR:
            return data
        step = np.sqrt(1 - STEP**2) * now + STEP * rng.normal(size=count)
        found, file = gap(step)
        if found <= best:
            now, best, data = step, found, file
    raise SystemExit(f"no such sample within {MOST_STEPS} steps: take another seed than {wanted.seed}")


def dicom(data: bytes) -> bytes:
    """Return a JPEG radiograph as a DICOM file of a child, with the tags of a portable detector."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "2.25.1"
    made.StudyInstanceUID, made.SeriesInstanceUID = "2.25.2", "2.25.3"
    made.PatientName, made.PatientID, made.PatientAge, made.PatientSex = (
        "Nobody^Sample",
        "SAMPLE-1",
        "004Y",
        "O",
    )
    made.PatientBirthDate = made.StudyDate = made.StudyTime = made.AccessionNumber = made.StudyID = ""
    made.Modality, made.BodyPartExamined, made.ViewPosition = "DX", "CHEST", "AP"
    made.Manufacturer, made.SeriesNumber, made.InstanceNumber = "CXR Inbox, synthetic", 1, 1
    made.Rows, made.Columns, made.SamplesPerPixel = FILM[1], FILM[0], 1
    made.PhotometricInterpretation, made.PixelRepresentation, made.BurnedInAnnotation = "MONOCHROME2", 0, "NO"
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.WindowCenter, made.WindowWidth = 128, 256
    made.PixelData = encapsulate([data])
    made["PixelData"].is_undefined_length = True
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def photograph() -> bytes:
    """Return a picture that is no X-ray: the sun above the sea."""
    y, x = np.mgrid[0:600, 0:800]
    sky = np.stack([90 + 0.2 * y, 140 + 0.12 * y, 220 - 0.05 * y], -1)
    waves = 18 * np.sin(x / 31 + y**1.3 / 9) + 9 * np.sin(x / 11 - y / 5)
    sea = np.stack([20 + 0 * x, 70 + waves, 120 + waves], -1)
    picture = Image.fromarray(np.where((y < 380)[..., None], sky, sea).clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).ellipse((520, 90, 640, 210), fill=(255, 236, 150))
    data = io.BytesIO()
    picture.filter(ImageFilter.GaussianBlur(1)).save(data, "PNG", optimize=True)
    return data.getvalue()


def patient(path: Path) -> str:
    """Return the patient of a film by its Kermany name: (NORMAL2-)IM-0001-0001, person1_virus_6."""
    found = re.match(r"(NORMAL2-)?IM-\d+|person\d+", path.name)
    return found.group() if found else path.name


def grey(path: Path, side: int) -> Array:
    """Return an image squashed to a square, as (side * side) grey levels."""
    with Image.open(path) as image:
        square = image.convert("L").resize((side, side), Image.Resampling.BOX)
    return np.asarray(square, np.float32).ravel()


def looks(images: Array) -> Array:
    """Return images, (count, pixels), as they are compared: with mean 0 and deviation 1."""
    return np.asarray((images - images.mean(1, keepdims=True)) / images.std(1, keepdims=True), np.float32)


def distances(a: Array, b: Array) -> Array:
    """Return the Euclidean distances between rows: (n, d), (m, d) -> (n, m)."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(square, 0)), np.float32)


def usual_distance(known: Array, who: NDArray[np.str_]) -> float:
    """Return the median over training images of the distance to the nearest image of another patient."""
    nearest = []
    for start in range(0, len(known), 500):
        part = distances(known[start : start + 500], known)
        part[who[start : start + 500, None] == who[None]] = np.inf
        nearest.append(part.min(1))
    return float(np.median(np.concatenate(nearest)))


def images_of(folder: Path) -> list[Path]:
    """Return the images of a folder, at any depth."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpeg", ".jpg", ".png"})


def main() -> int:
    """Draw the samples, compare them with the training images, and print a line for each."""
    parser = argparse.ArgumentParser(description="Draw the synthetic sample radiographs.")
    parser.add_argument("data", type=Path, help="folder with NORMAL/ and PNEUMONIA/, at any depth")
    parser.add_argument("adults", type=Path, help="folder of radiographs of adults")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "samples")
    args = parser.parse_args()
    classes = {
        name: [path for path in images_of(args.data) if path.parent.name == name]
        for name in ("NORMAL", "PNEUMONIA")
    }
    classes["adults"] = images_of(args.adults)
    engine = Engine.of(Settings(root=args.out))
    shutil.rmtree(args.out, ignore_errors=True)
    (args.out / "odd keys").mkdir(parents=True)
    known = [path for paths in classes.values() for path in paths]
    usual_looks = looks(np.stack([grey(path, LOOK) for path in known]))
    usual = usual_distance(usual_looks, np.array([patient(path) for path in known]))
    sys.stdout.write(f"{len(known)} images; two patients are usually {usual:.1f} apart\n")
    close = []
    for name, paths in classes.items():
        one_each = {patient(path): path for path in paths}
        population = Population.of(np.stack([grey(path, SIDE) for path in one_each.values()]))
        for sample, wanted in SAMPLES.items():
            if wanted.population == name:
                data = walk(population, wanted, engine)
                with Image.open(io.BytesIO(data)) as image:
                    small = image.resize((LOOK, LOOK), Image.Resampling.BOX)
                nearest = distances(looks(np.asarray(small, np.float32).reshape(1, -1)), usual_looks).min()
                close += [sample] * bool(nearest < usual)
                (args.out / sample).write_bytes(dicom(data) if sample.endswith(".dcm") else data)
                sys.stdout.write(f"{sample:18} {len(data) / 1024:5.0f} KiB  nearest {nearest:5.1f}\n")
                sys.stdout.flush()
    (args.out / "photograph-1.png").write_bytes(photograph())
    for odd, sample in _ODD_KEYS.items():
        shutil.copy(args.out / sample, args.out / "odd keys" / odd)
    if close:
        sys.stderr.write(f"nearer to a training image than two patients usually are: {', '.join(close)}\n")
    return 1 if close else 0


if __name__ == "__main__":
    sys.exit(main())
