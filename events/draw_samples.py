"""Draw the eight sample radiographs: children who do not exist, four with clear lungs, four with pneumonia.

No patient's image goes into this repository, so these do. `phantom` and `anatomy` give what the beam has to
cross; this module chooses the children, exposes the films and, with --check, proves that no sample is as near
to a training image as two patients usually are to each other:

    python events/draw_samples.py [--out events/samples] [--check DIRECTORY_OF_TRAINING_IMAGES]

Seeds are fixed and no model is asked: the same eight films come out each time, whatever a classifier makes of
them.
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from anatomy import radiograph
from numpy.typing import NDArray
from phantom import Array, Child, Opacity
from PIL import Image, ImageDraw, ImageFont

SIDE = 64  # pixels; films are compared at 64 x 64


def lobe(
    centre: tuple[float, float, float], radii: tuple[float, float, float], fissure: float | None = None
) -> Opacity:
    """Return a consolidated lobe: an ellipsoid (cm) with a ragged edge, cut straight below z = fissure."""

    def opacity(x: Array, y: Array, z: Array, noise: Array) -> Array:
        gaps = ((w - c) / r for w, c, r in zip((x, y, z), centre, radii, strict=True))
        rho = np.sqrt(sum((g**2 for g in gaps), np.zeros_like(x)))
        share = 0.5 * (1 + np.tanh((1 - rho + 0.15 * noise) / 0.22))
        if fissure is not None:
            share = share * 0.5 * (1 + np.tanh((fissure + 0.06 * y - z) / 0.15))
        return np.asarray(share * (0.9 - 0.1 * np.clip(noise, 0, 1)))

    return opacity


def patches(spots: list[tuple[float, float, float, float]], strength: float) -> Opacity:
    """Return fluffy foci wherever noise is high, likeliest round the spots (x, z, radius in cm, weight)."""

    def opacity(x: Array, y: Array, z: Array, noise: Array) -> Array:
        near = sum(
            (a * np.exp(-(((x - u) ** 2 + (z - v) ** 2) / r**2)) for u, v, r, a in spots), np.zeros_like(x)
        )
        return np.asarray(strength * 0.5 * (1 + np.tanh((noise + 1.8 * near - 1.6) / 0.5)))

    return opacity


def child(seed: int, shape: tuple[int, int], **given: float | Opacity | tuple[float, float]) -> Child:
    """Draw a child from the seed: build, breath, pose and place on the film; `given` overrides."""
    u = np.random.default_rng(seed).uniform
    width = u(7.4, 8.4)
    drawn: dict[str, object] = {
        "pixel": 2 * (width + u(2.4, 3.8)) / shape[1],
        "centre": (u(-0.5, 0.5), u(5.3, 6.3)),
        "tilt": u(-0.06, 0.06),
        "turn": u(-0.07, 0.07),
        "lordosis": u(-0.05, 0.14),
        "half_width": width,
        "half_depth": width * u(0.66, 0.74),
        "dome": u(10.6, 11.8),
        "wall": u(0.8, 1.3),
        "heart": u(0.86, 1.06),
        "thymus": u(1.8, 2.6),
        "arms": (u(-0.5, 1.2), u(-0.5, 1.2)),
        "chin": u(-6.0, -4.0),
        "gas": u(0.4, 1.0),
        "sway": u(-0.3, 0.3),
    }
    return Child(seed=seed, shape=shape, **(drawn | given))  # type: ignore[arg-type]


SAMPLES = {
    "normal-1": child(1, (800, 1000)),
    "normal-2": child(2, (820, 1060)),
    "normal-3": child(3, (760, 1000)),
    "normal-4": child(4, (860, 960), chin=-2.4),
    # Right upper lobe.
    "pneumonia-1": child(11, (800, 1000), opacity=lobe((-4.8, 0, 2.4), (4.6, 5, 3.8), 4.9)),
    # Left lower lobe.
    "pneumonia-2": child(
        12, (820, 1060), centre=(0.3, 6.4), opacity=lobe((5.0, -1.5, 10.0), (5.2, 6.5, 4.0))
    ),
    # Bronchopneumonia of both lungs.
    "pneumonia-3": child(
        13,
        (760, 1000),
        chin=-1.8,
        opacity=patches([(-4, 7.5, 3.2, 0.8), (4.5, 7, 3, 0.75), (-3.4, 3, 2.2, 0.6)], 0.75),
    ),
    # Viral: streaks round the hila, hazy, overinflated.
    "pneumonia-4": child(
        14,
        (860, 960),
        streaks=1.0,
        dome=12.5,
        opacity=patches([(-2.6, 6, 2.6, 0.5), (2.8, 6, 2.6, 0.5)], 0.4),
    ),
}
LETTERS = {"normal-2": "R", "normal-4": "L", "pneumonia-1": "R", "pneumonia-3": "L"}
SHUTTERS = {"normal-1": (0, 0.06), "normal-4": (0.03, 0), "pneumonia-2": (0, 0.07), "pneumonia-4": (0.03, 0)}


def blur(image: Array, sigma: float) -> Array:
    """Apply a Gaussian blur, sigma in pixels, with the edges held."""
    pad = int(3 * sigma) + 1
    big = np.pad(image, pad, mode="edge")
    v, u = np.fft.fftfreq(big.shape[0])[:, None], np.fft.rfftfreq(big.shape[1])
    spectrum = np.fft.rfft2(big) * np.exp(-2 * (np.pi * sigma) ** 2 * (u**2 + v**2))
    return np.asarray(np.fft.irfft2(spectrum, s=big.shape)[pad:-pad, pad:-pad])


def expose(mu_t: Array, cm: float, rng: np.random.Generator) -> Array:
    """Return the grey values 0..255 (bone white) of a computed radiograph; `cm` is pixels per cm.

    Beer-Lambert gives the primary beam; scatter adds a broad veil of about a third of it (behind a grid);
    photon noise is Poisson's, grown by the detector's blur; grey follows log exposure on the sigmoid of
    Hurter and Driffield (1890), after the usual unsharp mask and compression of slow changes.
    """
    primary = blur(np.exp(-mu_t), 0.02 * cm)
    beam = primary + rng.uniform(0.28, 0.42) * blur(primary, 2.2 * cm) * (1 - np.exp(-1.2 * mu_t))
    photons = rng.uniform(1.5e4, 3e4)  # per unattenuated pixel
    grain = blur(rng.normal(size=beam.shape), 0.75) * 2.5
    log = -np.log(np.maximum(beam * (1 + grain / np.sqrt(photons * beam)), 1e-4))
    log = log + 0.6 * (log - blur(log, 0.5 * cm)) - 0.18 * (blur(log, 2.5 * cm) - 2)
    slope, middle = rng.uniform(1.6, 1.95), rng.uniform(1.45, 1.7)
    return np.asarray(np.clip(258 / (1 + np.exp(-slope * (log - middle))) - 13, 0, 255))


def film(name: str, sample: Child) -> Image.Image:
    """Return the finished film: exposed, collimated and lettered."""
    rng = np.random.default_rng(1000 + sample.seed)
    grey = expose(radiograph(sample), 1 / sample.pixel, rng)
    rows, cols = grey.shape
    side, foot = SHUTTERS.get(name, (0, 0))
    v, u = np.arange(rows)[:, None], np.arange(cols)[None]
    lit = np.minimum(np.minimum(u - side * cols, cols * (1 - side) - u), rows * (1 - foot) - v)
    image = Image.fromarray((grey * np.clip(0.2 * lit, 0, 1)).astype(np.uint8))
    if name in LETTERS:  # L marks the child's left: the right of the film
        at = (cols * (0.05 if LETTERS[name] == "R" else 0.94), rows * rng.uniform(0.12, 0.3))
        ImageDraw.Draw(image).text(at, LETTERS[name], 245, ImageFont.load_default(rows // 20), anchor="mm")
    return image


def feature(image: Image.Image) -> NDArray[np.float32]:
    """Return the image as compared: resized to 64 x 64 grey, mean 0 and deviation 1, as (4096,)."""
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).ravel()
    return np.asarray((grey - grey.mean()) / max(float(grey.std()), 1e-6), np.float32)


def load(path: Path) -> NDArray[np.float32]:
    """Return the feature of one file."""
    with Image.open(path) as image:
        return feature(image)


def patient(path: Path) -> str:
    """Return the patient of a film by its Kermany name: (NORMAL2-)IM-0001-0001, person1_virus_6."""
    found = re.match(r"(NORMAL2-)?IM-\d+|person\d+", path.name)
    return found.group() if found else path.name


def distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Euclidean distances between rows: (n, d), (m, d) -> (n, m)."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(square, 0)), np.float32)


def usual_distance(known: NDArray[np.float32], who: NDArray[np.str_]) -> float:
    """Return the median over training images of the distance to the nearest image of another patient."""
    nearest = []
    for start in range(0, len(known), 500):
        part = distances(known[start : start + 500], known)
        part[who[start : start + 500, None] == who[None]] = np.inf
        nearest.append(part.min(1))
    return float(np.median(np.concatenate(nearest)))


def main() -> int:
    """Draw the samples, print a line for each and, with --check, compare them with the training images."""
    parser = argparse.ArgumentParser(description="Draw the synthetic sample radiographs.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "samples")
    parser.add_argument("--check", type=Path, metavar="DATA", help="folder of training images, at any depth")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, sample in SAMPLES.items():
        film(name, sample).save(args.out / f"{name}.jpeg", quality=90)
    usual, near = 0.0, np.full(len(SAMPLES), np.nan, np.float32)
    if args.check:
        paths = sorted(p for p in args.check.rglob("*") if p.suffix.lower() in {".jpeg", ".jpg", ".png"})
        if len({patient(p) for p in paths}) < 2:
            sys.stderr.write(f"{args.check}: no images of two patients to compare with\n")
            return 1
        known = np.stack([load(p) for p in paths])
        usual = usual_distance(known, np.array([patient(p) for p in paths]))
        near = distances(np.stack([load(args.out / f"{n}.jpeg") for n in SAMPLES]), known).min(1)
        sys.stdout.write(f"{len(paths)} images; two patients are usually {usual:.1f} apart\n")
    for (name, sample), gap in zip(SAMPLES.items(), near, strict=True):
        kib = (args.out / f"{name}.jpeg").stat().st_size / 1024
        rows, cols = sample.shape
        sys.stdout.write(f"{name:12} {cols:4} x {rows:4} {kib:5.0f} KiB  nearest {gap:5.1f}\n")
    close = [n for n, gap in zip(SAMPLES, near, strict=True) if gap < usual]
    if close:
        sys.stderr.write(f"nearer to a training image than two patients usually are: {', '.join(close)}\n")
    return 1 if close else 0


if __name__ == "__main__":
    sys.exit(main())
