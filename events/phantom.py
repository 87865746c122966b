"""Model a child's chest in three dimensions, and its projection along the X-ray beam.

Body frame, in cm: x to the child's left (the right of the film), y from back to front, z from the lung apices
down. Soft tissue, lung, fat and gas are implicit surfaces integrated over coronal slices; bones, vessels and
airways are curves in space swept by a disc. Both add to one map of mu * t, as Beer and Lambert's law needs
it: I = I0 exp(-mu t). Coefficients are near those of NIST XCOM at 50 keV. Nothing here is fitted to, or
measured on, anyone's image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]
Opacity = Callable[[Array, Array, Array, Array], Array]  # (x, y, z, noise) -> consolidated share of the lung

MU_WATER, MU_FAT, MU_LUNG, MU_BONE = 0.227, 0.195, 0.062, 0.62  # 1/cm; bone: a child's, less than an adult's
SOURCE_CM = 110.0  # focus to detector; the child lies with the back on the detector
SLICE_CM = 0.2
PITCH = 1.22  # cm between vertebrae
PAD = 60  # pixels round the film in which curves still count


@dataclass(frozen=True)
class Child:
    """Describe build, pose and finding of one child; lengths in cm, angles in radians."""

    seed: int
    shape: tuple[int, int]  # film, rows x columns
    pixel: float  # cm per pixel
    centre: tuple[float, float]  # body (x, z) at the middle of the film
    tilt: float  # turn in the plane of the film
    turn: float  # turn about the long axis
    lordosis: float  # beam towards the head (+): front moves up the film
    half_width: float  # of the rib cage, inside
    half_depth: float
    dome: float  # z of the right dome of the diaphragm: depth of inspiration
    wall: float  # thickness of the chest wall
    heart: float  # size factor
    thymus: float  # half-width of the upper mediastinum
    arms: tuple[float, float]  # right, left: elevation of the arms above the horizontal
    chin: float  # z of the chin
    gas: float  # size of the gastric bubble
    sway: float  # sideways bend of the spine
    opacity: Opacity | None = None
    streaks: float = 0.0  # peribronchial thickening: 0 none, 1 marked


def noise2(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Array:
    """Return a smooth random field, mean 0 and deviation about 1, that varies over `cell` pixels."""
    rows, cols = (int(n / cell) + 4 for n in shape)
    grid = Image.fromarray(rng.normal(size=(rows, cols)).astype(np.float32))
    box = (1.5, 1.5, 1.5 + shape[1] / cell, 1.5 + shape[0] / cell)
    big = grid.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(big, dtype=np.float64) * 1.5


def soft(distance: Array, edge: float = 0.12) -> Array:
    """Return 1 inside (distance > 0) and 0 outside, with an edge of about `edge` cm."""
    return 0.5 * (1 + np.tanh(distance / edge))


def join(*depths: Array, k: float = 0.5) -> Array:
    """Return the smooth union of solids, given by depth inside (cm, negative outside), blended over k cm."""
    return np.asarray(k * np.logaddexp.reduce([d / k for d in depths]))


def ellipsoid(
    x: Array, y: Array, z: Array, c: tuple[float, ...], r: tuple[float, ...], a: float = 0
) -> Array:
    """Return the depth inside an ellipsoid of centre c and semi-axes r, turned by a in the coronal plane."""
    u, v = x - c[0], z - c[2]
    u, v = u * np.cos(a) + v * np.sin(a), v * np.cos(a) - u * np.sin(a)
    return np.asarray((1 - np.sqrt((u / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 + (v / r[2]) ** 2)) * min(r))


def capsule(x: Array, y: Array, z: Array, p: Array, q: Array, radius: float) -> Array:
    """Return the depth inside the solid within `radius` of the segment from p to q."""
    axis = q - p
    t = np.clip(((x - p[0]) * axis[0] + (y - p[1]) * axis[1] + (z - p[2]) * axis[2]) / (axis @ axis), 0, 1)
    gap = [w - p[i] - t * axis[i] for i, w in enumerate((x, y, z))]
    return np.asarray(radius - np.sqrt(gap[0] ** 2 + gap[1] ** 2 + gap[2] ** 2))


def cage(child: Child, z: Array) -> tuple[Array, Array, Array]:
    """Return half-width, half-depth and y of the middle of the rib cage's inside at level z."""
    u = np.clip((z + 1.0) / 13.5, 1e-4, 1)
    s = (1 - (1 - u) ** 2.6) ** 0.55
    return child.half_width * s, child.half_depth * s**0.8, -1.3 + 0.1 * np.clip(z, -1, 13)


def bend(child: Child, z: Array | float) -> Array:
    """Return the spine's offset to the left at level z: a slight curve, as a child seldom lies straight."""
    return np.asarray(child.sway * np.sin((np.asarray(z) - 2.0) / 4.0))


def lung_depth(child: Child, x: Array, y: Array, z: Array) -> Array:
    """Return the depth inside the lungs.

    They lie in the cage, above the diaphragm, outside heart, thymus, aorta and spine.
    """
    a, b, mid = cage(child, z)
    rho = (np.abs(x / a) ** 2.2 + np.abs((y - mid) / b) ** 2.2) ** (1 / 2.2)
    right, left = (
        child.dome
        + drop
        + np.where(x * c > c * c, 2.3, 0.5) * ((x - c) / 4.4) ** 2
        + 2.6 * ((y - 1.5) / 6) ** 2
        for c, drop in ((-3.4 * child.half_width / 8, 0.0), (3.8 * child.half_width / 8, 0.3))
    )
    h, low = child.heart, child.dome - 11.5
    chest = join(
        ellipsoid(x, y, z, (1.7, 1.0, 9.0 + low), (4.5 * h, 3.7, 3.1 * h), 0.62),
        ellipsoid(x, y, z, (-0.9, 0.8, 8.6 + low), (1.9 * h, 3.2, 3.1 * h)),
        ellipsoid(x, y, z, (0.1, 1.0, 3.0), (child.thymus, 3.2, 4.6)),
        ellipsoid(x, y, z, (1.0, 0.5, 5.8), (2.0 * h, 3.0, 2.6)),
        ellipsoid(x, y, z, (0.1, -1.0, 3.0), (1.5, 4.4, 11.0)),
        1.5 - np.hypot(x - 0.3, y + 4.0),
    )
    chest = chest + 0.05 * np.sin(1.7 * z + 0.6 * y) * np.cos(0.9 * x)
    return np.asarray(np.minimum(np.minimum((1 - rho) * a, -join(z - right, z - left, k=0.4)), -chest))


def body_depth(child: Child, x: Array, y: Array, z: Array) -> Array:
    """Return the depth inside the skin: trunk, neck, shoulders, arms and head."""
    a, b, mid = cage(child, np.maximum(z, 3.0))
    a, b = a + child.wall + 0.03 * np.abs(z - 7), b + 0.8 * child.wall
    rho = (np.abs(x / a) ** 3 + np.abs((y - mid) / b) ** 3) ** (1 / 3)
    parts = [
        -join((rho - 1) * a, 0.2 - 0.7 * z, k=0.9),
        ellipsoid(x, y, z, (0, 1.5, child.chin - 6.5), (6, 7, 6.5)),
    ]
    parts.append(capsule(x, y, z, np.array([0, -1.5, -9.0]), np.array([0, -1.0, 2.0]), 3.3))
    for side, lift in zip((-1, 1), child.arms, strict=True):
        joint, hand = arm(child, side, lift)
        parts.append(capsule(x, y, z, np.array([side * 2, -1.6, -1.6]), joint - [side, 0, 0], 2.0))
        parts.append(capsule(x, y, z, np.array([side * 4, -1.6, 2.4]), joint, 2.7))
        parts.append(capsule(x, y, z, joint, hand, 2.3))
    return join(*parts, k=0.6)


def arm(child: Child, side: int, lift: float) -> tuple[Array, Array]:
    """Return the shoulder joint and a point down the upper arm."""
    joint = np.array([side * (child.half_width + 0.1), -1.5, -0.5 - 0.6 * np.sin(lift)])
    return joint, joint + 14 * np.array([side * np.cos(lift), 0.1, -np.sin(lift)])


class Beam:
    """Build the map of mu * t that a film sees: volumes by slices, curves by swept discs."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.rng = np.random.default_rng(child.seed)
        self.curves: dict[tuple[float, float, float], Array] = {}

    def project(self, p: Array) -> Array:
        """Project points (n, 3) in cm to (n, 2) rows and columns: cone beam, pose and place on the film."""
        c = self.child
        grow = SOURCE_CM / (SOURCE_CM - 7 - p[:, 1])
        x = (p[:, 0] - c.centre[0] + p[:, 1] * np.tan(c.turn)) * grow
        z = (p[:, 2] - c.centre[1] - p[:, 1] * np.tan(c.lordosis)) * grow
        turned = np.stack(
            [z * np.cos(c.tilt) + x * np.sin(c.tilt), x * np.cos(c.tilt) - z * np.sin(c.tilt)], 1
        )
        return np.asarray(turned / c.pixel + np.array(c.shape) / 2)

    def slice(self, y: float) -> tuple[Array, Array]:
        """Return body x and z at depth y under every second film pixel: the inverse of `project`."""
        c = self.child
        row, col = np.mgrid[0 : c.shape[0] : 2, 0 : c.shape[1] : 2].astype(np.float64)
        v, u = (row - c.shape[0] / 2) * c.pixel, (col - c.shape[1] / 2) * c.pixel
        grow = SOURCE_CM / (SOURCE_CM - 7 - y)
        x = (u * np.cos(c.tilt) + v * np.sin(c.tilt)) / grow - y * np.tan(c.turn) + c.centre[0]
        z = (v * np.cos(c.tilt) - u * np.sin(c.tilt)) / grow + y * np.tan(c.lordosis) + c.centre[1]
        return x, z

    def volumes(self) -> Array:
        """Return mu * t of everything but the curves, on the film's grid."""
        c = self.child
        half = ((c.shape[0] + 1) // 2, (c.shape[1] + 1) // 2)
        total, old = np.zeros(half), np.zeros((2, *half))
        keep = 0.85
        for y in np.arange(-8.0, 9.5, SLICE_CM):
            fresh = [noise2(self.rng, half, size / (2 * c.pixel)) for size in (1.0, 0.28)]
            old = keep * old + np.sqrt(1 - keep**2) * np.array(fresh)
            x, z = self.slice(y)
            depth, at = body_depth(c, x, y * np.ones_like(x), z), y * np.ones_like(x)
            mu = soft(depth) * (MU_FAT + (MU_WATER - MU_FAT) * soft(depth - 0.45, 0.3) + 0.004 * old[0])
            lung = soft(lung_depth(c, x, at, z), 0.1)
            air = MU_LUNG * (1 + 0.10 * old[1] + 0.05 * old[0] - 0.03 * y)
            if c.opacity is not None:
                air = air + (0.97 * MU_WATER - air) * c.opacity(x, at, z, 0.8 * old[0] + 0.18 * old[1])
            mu += lung * (air - mu)
            bubble = ellipsoid(
                x, at, z, (4.6, 2.5, c.dome + 2.6), (2.4 * c.gas, 2.0 * c.gas, 1.1 * c.gas), -0.15
            )
            mu *= 1 - 0.97 * soft(bubble + 0.1 * old[0])
            face = ellipsoid(x, at, z, (0, 1.5, c.chin - 6.3), (4.6, 6.0, 5.6))  # with its teeth
            mu += 0.05 * soft(face, 0.3)
            total += SLICE_CM * (mu + self.vertebrae(x, at, z))
        big = Image.fromarray(total.astype(np.float32)).resize(c.shape[::-1], Image.Resampling.BICUBIC)
        return np.asarray(big, dtype=np.float64)

    def vertebrae(self, x: Array, y: Array, z: Array) -> Array:
        """Return the attenuation of the vertebral bodies: boxes with dense end plates between clear discs."""
        level = z + 0.6 + (y + 4.0) * np.clip(0.03 * (z - 5.0), -0.3, 0.25)
        k = np.round(level / PITCH)
        w = level - k * PITCH
        x = x - bend(self.child, z)
        waist = 0.9 + 0.025 * np.clip(k, -4, 12) + 0.35 * w**2
        inside = np.minimum(np.minimum(waist - np.abs(x), 0.47 - np.abs(w)), 0.8 - np.abs(y + 4.0))
        disc = 0.05 * soft(waist - np.abs(x), 0.1) * soft(0.8 - np.abs(y + 4.0))
        return np.asarray(soft(inside, 0.1) * (0.16 + 0.12 * np.exp(-((inside / 0.14) ** 2))) + disc)

    def tube(self, path: Array, rx: float, rz: float, mu: float | Array, core: float = 1.0) -> None:
        """Sweep a disc of half-width rx and half-height rz (cm) along path (n, 3), adding mu.

        Each step of length ds adds mu ds wherever its disc lies, which integrates to the chord of the tube
        across the beam and to its length along the beam. `core` is the density inside relative to the rim.
        """
        steps = np.diff(path, axis=0)
        ds = np.linalg.norm(steps, axis=1)
        n = np.maximum(1, np.ceil(ds / (0.6 * self.child.pixel))).astype(int)
        seg = np.repeat(np.arange(len(n)), n)
        t = (np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + 0.5) / n[seg]
        where = self.project(path[:-1][seg] + t[:, None] * steps[seg])
        weight = (ds / n)[seg] * np.broadcast_to(mu, len(ds))[seg]
        rows, cols = self.child.shape
        layer = self.curves.setdefault((rx, rz, core), np.zeros((rows + 2 * PAD, cols + 2 * PAD)))
        base = np.floor(where).astype(int)
        frac = where - base
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            r, q = base[:, 0] + i + PAD, base[:, 1] + j + PAD
            share = np.abs(1 - i - frac[:, 0]) * np.abs(1 - j - frac[:, 1]) * weight
            ok = (r >= 0) & (r < layer.shape[0]) & (q >= 0) & (q < layer.shape[1])
            np.add.at(layer, (r[ok], q[ok]), share[ok])

    def swept(self) -> Array:
        """Return mu * t of all tubes: each layer of points convolved with its disc."""
        rows, cols = self.child.shape
        total = np.zeros((rows + 2 * PAD, cols + 2 * PAD))
        for (rx, rz, core), layer in self.curves.items():
            v, u = (np.fft.fftfreq(n, 1 / n)[:, None] * self.child.pixel for n in layer.shape)
            rho = np.hypot(v / rz, u.T / rx)
            px = min(rx, rz) / self.child.pixel
            disc = np.clip((1 - rho) * px + 0.5, 0, 1) - (1 - core) * np.clip((0.72 - rho) * px + 0.5, 0, 1)
            total += np.fft.irfft2(np.fft.rfft2(layer) * np.fft.rfft2(disc), s=layer.shape)
        return total[PAD : PAD + rows, PAD : PAD + cols]
