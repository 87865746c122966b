"""Draw the lines of a chest: bones, vessels and airways, as curves swept through `phantom`'s beam.

Shapes follow any atlas of anatomy and the author's eye; lengths in cm, in the body frame of `phantom`.
"""

import numpy as np
from phantom import (
    MU_LUNG,
    MU_WATER,
    PITCH,
    Array,
    Beam,
    Child,
    arm,
    bend,
    cage,
    lung_depth,
    soft,
)


def curve(*points: tuple[float, float, float], n: int = 24) -> Array:
    """Return a Catmull-Rom curve through the points, as (m, 3)."""
    p = np.array([points[0], *points, points[-1]], dtype=np.float64)
    t = np.linspace(0, 1, n, endpoint=False)[:, None]
    parts = [
        b + t / 2 * (c - a) + t**2 / 2 * (2 * a - 5 * b + 4 * c - d) + t**3 / 2 * (3 * (b - c) + d - a)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate([*parts, p[-1:]])


def ribs(beam: Beam) -> None:
    """Draw eleven pairs of ribs: back and out from the spine along the cage, down, in again in front."""
    child, rng = beam.child, beam.rng
    for i, side in ((i, s) for i in range(11) for s in (-1, 1)):
        start = np.arcsin(min(0.9, 1.0 / max(1.2, float(cage(child, np.array(-0.4 + PITCH * i))[0]))))
        angle = np.linspace(start, np.pi * (0.79 if i else 0.6) + rng.normal(0, 0.06), 90)
        t = angle / np.pi
        ramp = np.clip((t - 0.12) / 0.66, 0, 1)
        drop = (1.9 + 0.42 * min(i, 6) + rng.normal(0, 0.08)) * ramp**2 * (3 - 2 * ramp)
        z = -0.75 + PITCH * i + rng.normal(0, 0.04) + drop - 0.42 * np.sin(np.pi * np.clip(t / 0.42, 0, 1))
        a, b, mid = cage(child, z)
        path = np.stack([side * a * np.sin(angle), mid - b * np.cos(angle), z], 1)
        mu = 0.66 * (1.1 - 0.3 * ramp[1:]) * (0.8 if i == 0 else 1)
        cut = int(len(path) * 0.78)
        beam.tube(path[: cut + 1], 0.2, 0.29, mu[:cut], 0.45)
        beam.tube(path[cut:], 0.2, 0.33, mu[cut:], 0.5)


def spine(beam: Beam) -> None:
    """Draw the pedicles, seen end on as rings, and the transverse and spinous processes.

    The vertebral bodies are volumes, see `phantom`.
    """
    child, rng = beam.child, beam.rng
    for k in range(-6, 16):
        z = -0.6 + k * PITCH
        mid = float(bend(child, z))
        beam.tube(curve((mid, -5.2, z + 0.35), (mid, -6.3, z + 0.75)), 0.13, 0.3, 0.3, 0.5)
        for side in (-1.0, 1.0):
            x = mid + side * (0.68 + 0.015 * max(k, 0)) + rng.normal(0, 0.04)
            beam.tube(curve((x, -4.6, z - 0.1), (x, -5.4, z - 0.08)), 0.2, 0.3, 0.24, 0.3)
            beam.tube(curve((x, -5.2, z - 0.1), (mid + side * 1.75, -5.9, z - 0.28)), 0.2, 0.24, 0.2, 0.4)
            beam.tube(curve((x, -5.3, z), (mid + side * 0.1, -5.9, z + 0.4)), 0.1, 0.24, 0.2, 0.6)


def girdle(beam: Beam) -> None:
    """Draw clavicles, shoulder blades and upper arms, both sides."""
    child, rng = beam.child, beam.rng
    for side, lift in zip((-1, 1), child.arms, strict=True):
        joint, hand = arm(child, side, lift)
        j = float(side * joint[0])
        up = 0.5 * np.sin(lift)

        def at(x: float, y: float, z: float, s: int = side) -> tuple[float, float, float]:
            return (s * x, y, z)

        path = curve(
            at(1.1, 3.0, 0.9),
            at(2.6, 3.3, 0.25),
            at(4.4, 2.4, -0.1 - up),
            at(5.9, 0.8, -0.9 - 1.5 * up),
            at(j - 0.7, -0.8, -1.0 - 2 * up),
        )
        beam.tube(path[:30], 0.28, 0.36, 0.62, 0.4)
        beam.tube(path[29:], 0.25, 0.3, 0.62, 0.4)
        low, top = np.array(at(j - 1.7 + 1.9 * up, -5.2, 5.2)), np.array(at(j - 0.45, -3.2, 0.5 - up))
        inner = np.array(at(j - 3.6 + 0.8 * up, -5.4, 0.9))
        for f in np.linspace(0, 1, 45):
            edge = top + f * (low - top) + [-0.22 * side * np.sin(np.pi * f), 0, 0]
            mid = inner + f * (low - inner) - [0.9 * side * np.sin(np.pi * f), 0, 0]
            third = edge + (mid - edge) * 0.3
            beam.tube(np.stack([edge, third, mid]), 0.1, 0.16, np.array([0.26, 0.14]), 1.0)
            border = np.stack([edge, edge + 0.14 * (low - top) / 6])
            beam.tube(border, 0.13, 0.13, 0.5, 0.8)
        tip = np.array(at(j + 0.3, -2.2, -1.5 - 2 * up))
        beam.tube(
            np.stack([inner + np.array([0, 0, 0.7]), top - np.array([0, 0.6, 0.5]), tip]),
            0.16,
            0.2,
            0.28,
            0.6,
        )
        beam.tube(
            curve(at(j - 0.6, -2.5, 0.1 - up), at(j - 0.3, -1.2, -0.4 - up), at(j, -0.4, -0.2 - up)),
            0.25,
            0.25,
            0.35,
            0.5,
        )
        beam.tube(np.stack([top, top + np.array([0.15 * side, 0.3, -0.7])]), 0.2, 0.4, 0.35, 0.5)
        axis = (hand - joint) / 14
        for f in np.linspace(0, 1, 12):
            r = float(np.round(0.5 + 0.42 * (1 - f) ** 2.2, 2))
            beam.tube(joint + axis * np.array([[0.75 + 3 * f], [0.75 + 3 * (f + 1 / 12)]]), r, r, 0.22, 0.45)
        beam.tube(np.stack([joint + 3.75 * axis, hand]), 0.5, 0.5, 0.26, 0.4)
        head = joint + 0.05 * axis + rng.normal(0, 0.04, 3)
        for r, mu in ((0.8, 0.08), (0.62, 0.08), (0.35, 0.08)):
            beam.tube(head + np.array([[0, -0.7 * r, 0], [0, 0.7 * r, 0]]), r, r, mu, 0.85)


def jaw(beam: Beam) -> None:
    """Draw the lower jaw with its teeth, for films that show the chin."""
    z = beam.child.chin
    half = [(4.3, -1.5, -5.0), (3.8, 0.5, -2.6), (2.7, 3.5, -1.3), (1.3, 5.6, -0.7)]
    points = [(-x, y, z + w) for x, y, w in half] + [(x, y, z + w) for x, y, w in half[::-1]]
    beam.tube(curve(*points), 0.25, 0.5, 0.38, 0.6)
    for x in np.arange(-2.4, 2.5, 0.55):
        y, top = 5.3 - 0.35 * x**2, z - 1.5 - 0.11 * x**2 + beam.rng.normal(0, 0.06)
        beam.tube(curve((x, y, top), (1.03 * x, y, top - 0.9)), 0.21, 0.21, 0.9, 0.7)


def branch(rng: np.random.Generator, root: Array, aim: Array, targets: Array) -> list[tuple[Array, int]]:
    """Return a tree from root that reaches every target: (path, number of targets beyond), trunk first.

    Each branch goes part of the way to the middle of its targets, which then part along their main axis.
    """
    out: list[tuple[Array, int]] = []
    todo = [(root, aim, targets)]
    while todo:
        start, way, goals = todo.pop()
        to = goals.mean(0) - start
        end = start + to * (rng.uniform(0.3, 0.5) if len(goals) > 1 else 1)
        length = np.linalg.norm(end - start)
        end = end + rng.normal(0, 0.06, 3) * length
        t = np.linspace(0, 1, 7)[:, None]
        bend = start + way * length * 0.45
        out.append(((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end, len(goals)))
        if len(goals) > 1:
            spread = goals - goals.mean(0)
            axis = np.linalg.svd(spread, full_matrices=False)[2][0]
            side = spread @ axis + rng.normal(0, 0.25) * spread.std() > np.median(spread @ axis)
            if side.all() or not side.any():
                side = np.arange(len(goals)) % 2 == 0
            head = (end - bend) / max(1e-6, float(np.linalg.norm(end - bend)))
            todo += [(end, head, goals[side]), (end, head, goals[~side])]
    return out


def vessels(beam: Beam) -> None:
    """Draw arteries, veins and bronchi of both lungs.

    Radii follow Murray's law (1926): r**3 of a branch is the sum of its children's.
    """
    child, rng = beam.child, beam.rng
    share = child.opacity
    beam.tube(curve((0.1, 0.2, -7.0), (0.05, -0.8, 0.0), (-0.2, -1.2, 4.3)), 0.42, 0.42, -0.19)
    for side in (-1, 1):
        hilum = np.array([side * 2.0, -0.8, 5.2 + 0.3 * (side < 0)])
        carina = np.array([-0.2, -1.2, 4.2])
        beam.tube(
            curve(tuple(carina), tuple((carina + hilum) / 2 + [0, 0, -0.1]), tuple(hilum)), 0.3, 0.3, -0.17
        )
        box = rng.uniform((1, -6.5, -1), (9, 5.5, 16), (9000, 3)) * (side, 1, 1)
        goals = box[lung_depth(child, *box.T) > 0.15] * (1, 0.6, 1)
        for kind, number, r0 in (("artery", 420, 0.045), ("vein", 300, 0.042), ("bronchus", 70, 0.07)):
            root = hilum + ((0, 0.5, 0.8) if kind == "vein" else (0, 0, 0))
            some = goals[rng.permutation(len(goals))[:number]]
            for path, beyond in branch(rng, root, np.array([side * 0.8, 0, 0.3]), some):
                mid = (path[1:] + path[:-1]) / 2
                inside = soft(lung_depth(child, *mid.T), 0.15)
                clear = inside * (
                    1 - share(mid[:, 0], mid[:, 1], mid[:, 2], np.zeros(len(mid))) if share else 1
                )
                r = float(np.round(min(0.27, r0 * beyond ** (1 / 3)) / 0.02) * 0.02)
                if kind != "bronchus":  # dim the few seen end on, which would pass for nodules
                    along = np.abs(np.diff(path[:, 1])) / np.linalg.norm(np.diff(path, axis=0), axis=1)
                    beam.tube(path, r, r, 1.8 * (MU_WATER - MU_LUNG) * clear * (1 - 0.5 * along))
                    continue
                beam.tube(path, 1.3 * r, 1.3 * r, -1.2 * MU_WATER * (inside - clear))
                near = np.exp(-np.linalg.norm(mid - hilum, axis=1) / 4) * min(1.0, 0.13 / r) ** 2
                beam.tube(path, 1.6 * r, 1.6 * r, (0.03 + 0.5 * child.streaks * near) * clear, 0.5)


def radiograph(child: Child) -> Array:
    """Return the map of mu * t of one child."""
    beam = Beam(child)
    for part in (ribs, spine, girdle, jaw, vessels):
        part(beam)
    return beam.volumes() + beam.swept()
