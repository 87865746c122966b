"""The heatmap picture: the map over the X-ray, its scale and its name."""

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.serve import overlay
from pipeline.errors import UsageError
from pipeline.verdict import ActivationMap, Finding, Release, Source, Thresholds, Verdict
from tests.support import pictures
from tests.support.commands import cxr
from tests.support.fakes import SAMPLES

WHOLE = (0.0, 0.0, 1.0, 1.0)
PAGE = Path(__file__).parents[3] / "web/static"


def verdict(
    grid: list[list[float]], key: str = "a.png", box: tuple[float, ...] = WHOLE, **fields: str
) -> Verdict:
    finding = Finding(
        label="pneumonia",
        probability=0.9,
        prevalence=0.5,
        thresholds=Thresholds(normal_below=0.3, pneumonia_above=0.7),
        map=ActivationMap(grid=grid, box=box),
    )
    now = datetime(2026, 1, 1, tzinfo=UTC)
    source = Source(bucket="", key=key, etag="", size=1, sha256=fields.get("sha256"))
    return Verdict(
        status="classified",
        source=source,
        finding=finding,
        release=Release(),
        started_at=now,
        finished_at=now,
    )


def corners(picture: Image.Image) -> list[np.ndarray]:
    """Return the corners as red, green, blue: top left, top right, bottom left, bottom right."""
    pixels = np.asarray(picture.convert("RGB"), int)
    return [pixels[y, x] for y in (2, -3) for x in (2, -3)]


def test_the_hot_corner_is_warm_the_cold_one_cool_and_the_rest_as_it_was() -> None:
    gray = Image.new("L", (300, 200), 100)
    blended = overlay.blend(gray, verdict([[9, 0, 0], [0, 0, 0], [0, 0, -9]]).finding.map)
    hot, right, left, cold = corners(blended)
    assert hot[0] > hot[2] + 60
    assert cold[2] > cold[0] + 60
    assert list(right) == list(left) == [100, 100, 100]


def test_a_weak_map_is_not_stretched_to_full_colour() -> None:
    gray = Image.new("L", (90, 90), 100)
    weak, strong = (overlay.blend(gray, verdict([[value, 0], [0, 0]]).finding.map) for value in (1.0, 4.0))
    change = [np.abs(corners(picture)[0] - 100).max() for picture in (weak, strong)]
    assert 0 < change[0] < change[1] / 3


def test_what_the_map_does_not_cover_keeps_its_pixels() -> None:
    gray = pictures.sample().resize((200, 100))
    box = (0.25, 0.1, 0.75, 0.9)
    blended = np.asarray(overlay.blend(gray, verdict([[9.0, 9.0]], box=box).finding.map))
    assert np.array_equal(blended[:, :50, 0], np.asarray(gray)[:, :50])
    assert np.array_equal(blended[95:, :, 1], np.asarray(gray)[95:])
    assert not np.array_equal(blended[15:85, 60:140, 0], np.asarray(gray)[15:85, 60:140])


def test_colours_computed_for_every_few_pixels_look_like_those_of_each_pixel() -> None:
    grid = np.random.default_rng(2).normal(scale=6, size=(10, 10)).astype(np.float32)
    activation = verdict(grid.tolist()).finding.map
    blended = np.asarray(overlay.blend(Image.new("L", (953, 701), 100), activation), int)
    rgb, cover = overlay.colours(overlay.surface(grid, 701, 953) / overlay.scale_of(activation))
    exact = 100 + (rgb - 100) * (overlay.OPACITY * cover[:, :, None])
    assert np.abs(blended - exact).mean() < 1
    assert np.percentile(np.abs(blended - exact), 99.9) < 8


def test_the_surface_goes_through_the_cells_and_never_beyond_their_neighbours() -> None:
    grid = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    surface = overlay.surface(grid, 4 * 9, 5 * 9)
    assert np.allclose(surface[4::9, 4::9], grid, atol=1e-5)
    assert surface.min() == pytest.approx(grid.min())
    assert surface.max() == pytest.approx(grid.max())


def test_the_colours_are_those_of_the_page() -> None:
    script = (PAGE / "map.js").read_text(encoding="utf-8")
    constants = dict(re.findall(r"const (\w+) = ([^;]+);", script))
    at = np.array([-1.0, -0.5, -1e-9, 1e-9, 0.5, 1.0], np.float32)
    expected = [*reversed(json.loads(constants["COOL"])), *json.loads(constants["WARM"])]
    assert np.allclose(overlay.colours(at)[0], expected, atol=1)
    quiet, full = float(constants["QUIET"]), float(constants["FULL"])
    cover = overlay.colours(np.array([quiet, (quiet + full) / 2, full, -full], np.float32))[1]
    assert np.allclose(cover, [0, 0.5, 1, 1], atol=1e-5)
    assert float(constants["LEAST_SCALE"]) == overlay.LEAST_SCALE


@pytest.mark.parametrize("size", [(1000, 800), (30, 40), (1, 1), (3, 900), (900, 3)])
def test_a_picture_has_its_scale_whatever_its_shape(size: tuple[int, int]) -> None:
    picture = overlay.draw(Image.new("L", size, 90), verdict([[5.0, -5.0]]))
    assert picture.width == 1000
    assert picture.height < 1400
    foot = np.asarray(picture, int)[-142:]
    cool, warm = foot[..., 2] - foot[..., 0] > 100, foot[..., 0] - foot[..., 2] > 150
    scale = cool[:, 500:].sum(1).argmax()  # the row with most blue is in the bar
    assert cool[scale, 500:560].all()
    assert warm[scale, 920:976].all()
    assert not (cool | warm)[scale, 720:756].any()


def test_names_never_collide_and_stay_in_the_folder() -> None:
    keys = ["a/x.png", "b/x.png", "b/x.jpeg", "../x.png", "/x.png", "..", "-", "...png", "a b.png", "a_b.png"]
    keys += ["é" * 200 + ".png", "é" * 199 + ".png"]
    names = [overlay.file_name(verdict([[0.0]], key)) for key in keys]
    names.append(overlay.file_name(verdict([[0.0]], "-", sha256="1")))  # another content, same name
    assert len(set(names)) == len(keys) + 1
    assert all(re.fullmatch(r"\w[\w.-]*\.[0-9a-f]{12}\.jpeg", name) for name in names)
    assert max(len(name.encode()) for name in names) < 200
    assert names[0].startswith("x.")


def test_classify_draws_each_classified_image(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "same.jpeg").write_bytes(pictures.SAMPLE.read_bytes())
    (tmp_path / "in/bad.jpeg").write_text("no image")
    answer = cxr("classify", "--json", tmp_path / "in", "--heatmaps", tmp_path / "out/maps")
    assert answer.returncode == 1
    assert answer.stderr == b""
    statuses = [Verdict.from_json(line).status for line in answer.stdout.splitlines()]
    assert statuses == ["rejected", "classified", "classified"]
    drawn = sorted((tmp_path / "out/maps").iterdir())
    assert [path.name.split(".")[0] for path in drawn] == ["same", "same"]
    for path in drawn:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            pixels = np.asarray(picture.convert("RGB"), int)
        assert (pixels[:700, :, 0] - pixels[:700, :, 2]).max() > 40  # warm colours over the X-ray


def test_a_folder_that_cannot_hold_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="name another"):
        overlay.Heatmaps(tmp_path / "file", [SAMPLES])
    with pytest.raises(UsageError, match="would be classified"):
        overlay.Heatmaps(tmp_path / "maps", [tmp_path])
    assert not (tmp_path / "maps").exists()


def test_a_probability_that_means_nothing_is_not_drawn() -> None:
    gray = Image.new("L", (300, 200), 100)
    said = verdict([[1.0]])
    assert said.finding
    other = said.model_copy(update={"finding": said.finding.model_copy(update={"probability": 0.123})})
    assert overlay.draw(gray, said) != overlay.draw(gray, other)
    doubted = [one.model_copy(update={"warnings": ["atypical"]}) for one in (said, other)]
    assert overlay.draw(gray, doubted[0]) == overlay.draw(gray, doubted[1])
