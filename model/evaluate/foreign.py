"""Draw images that are not frontal chest X-rays: `python -m model.evaluate.foreign FOLDER`.

They are for `cxr evaluate --populations`, a folder for each kind, since no such X-rays may be shipped: hands,
knees, skulls, lateral chests and CT slices, drawn simply and at random; written pages, gradients and noise;
and the photographs that installed packages contain (scikit-image has most).
"""

import argparse
import importlib.util
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Chance = np.random.Generator
SIDE, COUNT = 640, 20  # pixels; images of each kind
PACKAGES = ("matplotlib", "skimage", "sklearn")
_SEED = 14


def hand(chance: Chance) -> Image.Image:
    """Draw a palm and five fingers, each with three bones."""
    image, draw = _film(chance)
    x, y = chance.uniform(0.4, 0.6, 2) * SIDE
    draw.ellipse((x - 110, y, x + 110, y + 260), fill=95)
    for finger, length in enumerate((150, 230, 260, 240, 180)):
        angle = math.radians(-40 + 20 * finger + chance.normal(0, 3))
        start = np.array([x - 100 + 50 * finger, y + 60.0])
        end = start + length * np.array([math.sin(angle), -math.cos(angle)])
        _bone(draw, start, end, 42, 100)
        for joint in range(3):
            a, b = (start + (end - start) * share for share in ((joint + 0.05) / 3, (joint + 0.85) / 3))
            _bone(draw, a, b, 18, 190)
        _bone(draw, np.array([x - 60 + 30 * finger, y + 240]), start - (0, 10), 20, 185)
    return _exposed(image, chance)


def knee(chance: Chance) -> Image.Image:
    """Draw a thigh and a lower leg, with the bones that meet in the joint."""
    image, draw = _film(chance)
    x, y = chance.uniform(0.42, 0.58, 2) * SIDE
    draw.rectangle((x - 150, 0, x + 150, SIDE), fill=100)
    for up, width in ((-1, 95), (1, 85)):
        _bone(
            draw, np.array([x, y + 22 * up]), np.array([x + chance.normal(0, 20), y + 420 * up]), width, 170
        )
        draw.ellipse((x - 115, y + 45 * up - 42, x + 115, y + 45 * up + 42), fill=190)
    draw.ellipse((x - 50, y - 110, x + 50, y - 15), fill=215)
    return _exposed(image, chance)


def skull(chance: Chance) -> Image.Image:
    """Draw a skull from the front."""
    image, draw = _film(chance)
    x, y, r = SIDE / 2, SIDE * chance.uniform(0.42, 0.5), chance.uniform(180, 230)
    draw.ellipse((x - r, y - 1.2 * r, x + r, y + 1.1 * r), fill=215)
    draw.ellipse((x - 0.9 * r, y - 1.1 * r, x + 0.9 * r, y + r), fill=140)
    for eye in (-1, 1):
        draw.ellipse((x + eye * 80 - 45, y - 10, x + eye * 80 + 45, y + 70), fill=75)
    draw.polygon(((x, y + 60), (x - 35, y + 130), (x + 35, y + 130)), fill=50)
    draw.rectangle((x - 90, y + 0.85 * r, x + 90, y + 1.2 * r), fill=205)
    return _exposed(image, chance)


def lateral(chance: Chance) -> Image.Image:
    """Draw a chest from the side: one dark field between breastbone and spine."""
    image, draw = _film(chance)
    lean = chance.normal(0, 15)
    draw.polygon(((180 + lean, 0), (470, 0), (540, SIDE), (110, SIDE)), fill=130)
    draw.ellipse((190, 90, 500, 520), fill=45)
    draw.ellipse((190, 260, 350, 520), fill=160)
    draw.ellipse((150, 470, 520, 760), fill=185)
    for vertebra in range(12):
        top = 60 + 48 * vertebra
        draw.rounded_rectangle((440 + 4 * vertebra, top, 490 + 4 * vertebra, top + 38), 8, fill=175)
    return _exposed(image, chance)


def ct_slice(chance: Chance) -> Image.Image:
    """Draw a CT slice of a chest in a lung window: a body on black, two lungs, a spine, vessels."""
    image = Image.new("L", (SIDE, SIDE), 0)
    draw, high = ImageDraw.Draw(image), chance.uniform(0.6, 0.8) * SIDE / 2
    draw.ellipse((30, SIDE / 2 - high, SIDE - 30, SIDE / 2 + high), fill=150)
    for side in (-1, 1):
        x = SIDE / 2 + side * 150
        draw.ellipse((x - 105, SIDE / 2 - 0.75 * high, x + 105, SIDE / 2 + 0.7 * high), fill=28)
        for _ in range(40):
            u, v = chance.normal(0, 0.4, 2)
            draw.ellipse((x + 95 * u, SIDE / 2 + 140 * v, x + 95 * u + 7, SIDE / 2 + 140 * v + 7), fill=170)
    draw.ellipse((SIDE / 2 - 40, SIDE / 2 + 0.5 * high, SIDE / 2 + 40, SIDE / 2 + 0.85 * high), fill=225)
    return _exposed(image, chance)


def page(chance: Chance) -> Image.Image:
    """Draw a written page."""
    image = Image.new("L", (SIDE, 900), 245)
    draw = ImageDraw.Draw(image)
    for top in range(50, 850, int(chance.integers(18, 30))):
        x = 50.0
        while x < chance.uniform(380, 560):
            width = chance.uniform(15, 70)
            draw.rectangle((x, top, x + width, top + 9), fill=40)
            x += width + 9
    return image


def gradient(chance: Chance) -> Image.Image:
    """Draw a smooth wave."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    down, right, turn = chance.uniform(0.3, 3, 3)
    return Image.fromarray(np.uint8(127 + 120 * np.sin(down * rows * 6 + right * columns * 6 + turn)))


def noise(chance: Chance) -> Image.Image:
    """Draw noise as coarse as cells of some pixels."""
    cells = int(chance.integers(5, SIDE))
    small = Image.fromarray(chance.integers(0, 256, (cells, cells), np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


KINDS: dict[str, Callable[[Chance], Image.Image]] = {
    "hands, drawn": hand,
    "knees, drawn": knee,
    "skulls, drawn": skull,
    "lateral chests, drawn": lateral,
    "CT slices, drawn": ct_slice,
    "written pages": page,
    "gradients": gradient,
    "noise": noise,
}


def write(folder: Path) -> None:
    """Write the images of all kinds, each in a folder of its own."""
    chance = np.random.default_rng(_SEED)
    for kind, draw in KINDS.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(COUNT):
            draw(chance).save(folder / kind / f"{number:02}.png")
    photographs = folder / "photographs"
    photographs.mkdir(exist_ok=True)
    for path in filter(_is_picture, _packaged()):
        shutil.copy(path, photographs / f"{path.parent.name}-{path.name}")


def _packaged() -> list[Path]:
    found = [importlib.util.find_spec(name) for name in PACKAGES]
    roots = [Path(spec.origin).parent for spec in found if spec and spec.origin]
    return sorted(path for root in roots for path in root.rglob("*") if path.suffix in (".jpg", ".png"))


def _is_picture(path: Path) -> bool:
    """Return whether a file is a picture, not an icon or a package's reference plot."""
    with Image.open(path) as image:
        return min(image.size) >= 128 and "baseline_images" not in path.parts


def _film(chance: Chance) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (SIDE, SIDE), int(chance.integers(5, 40)))
    return image, ImageDraw.Draw(image)


def _bone(draw: ImageDraw.ImageDraw, a: np.ndarray, b: np.ndarray, width: float, fill: int) -> None:
    draw.line([tuple(a), tuple(b)], fill=fill, width=int(width))
    for x, y in (a, b):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)


def _exposed(image: Image.Image, chance: Chance) -> Image.Image:
    """Rotate, blur and expose a drawing like a film."""
    turned = image.rotate(chance.normal(0, 6), Image.Resampling.BILINEAR, fillcolor=image.getpixel((0, 0)))
    soft = turned.filter(ImageFilter.GaussianBlur(chance.uniform(1, 4)))
    grain = Image.fromarray(np.uint8(np.clip(chance.normal(20, 6, (SIDE, SIDE)), 0, 255)))
    return ImageChops.add(soft, grain).point(
        lambda level: int(255 * (level / 255) ** chance.uniform(0.7, 1.4))
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
