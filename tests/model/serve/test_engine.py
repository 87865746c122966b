"""The shipped network in service: accepted and refused images, and the agreement of two engines."""

import contextlib
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from model import SHIPPED
from model.serve.engine import Engine, Outputs, encode_preview, interpret, prepare
from model.serve.files.decode import decode
from model.serve.preprocess import network_input
from pipeline.errors import InputRejected, UsageError
from pipeline.records import ImageFacts
from tests.support import dicoms, pictures
from tests.support.fakes import XRAYS


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize("kind", pictures.GOOD)
def test_one_picture_in_any_good_file_gets_one_answer(engine: Engine, kind: str) -> None:
    expected = engine.examine(pictures.SAMPLE.read_bytes())
    found = engine.examine(pictures.GOOD[kind]())
    assert found.finding.label == expected.finding.label
    assert found.finding.probability == pytest.approx(expected.finding.probability, abs=0.03)
    assert (found.facts.width, found.facts.height) == (expected.facts.width, expected.facts.height)


@pytest.mark.parametrize("kind", pictures.BAD)
def test_a_bad_file_is_refused_with_a_sentence(engine: Engine, kind: str) -> None:
    code, make = pictures.BAD[kind]
    with pytest.raises(InputRejected) as caught:
        engine.examine(make())
    assert caught.value.code == code
    assert str(caught.value)[0].isupper()
    assert str(caught.value).endswith(".")
    assert any(verb in str(caught.value) for verb in ("Drop", "drop", "Export"))


def test_odd_exif_does_not_spoil_a_good_picture(engine: Engine) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 3, "Maker\0\xff", 72.0
    data = pictures.encoded(pictures.sample().rotate(180), "JPEG", quality=95, exif=exif)
    for position in range(20, 120):  # somewhere in the EXIF
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        with suppress(InputRejected):
            engine.examine(bytes(damaged))


def test_a_tiff_in_which_white_is_zero(engine: Engine) -> None:
    inverted = Image.fromarray(65535 - np.asarray(pictures.deep()))
    data = pictures.encoded(inverted, "TIFF", tiffinfo={262: 0})
    expected = engine.examine(pictures.GOOD["16-bit TIFF"]()).finding
    assert engine.examine(data).finding.probability == pytest.approx(expected.probability, abs=0.01)


def photographs() -> list[Path]:
    """Return pictures that come with scikit-learn and matplotlib: a flower, a palace, a person, logos."""
    import matplotlib
    import sklearn.datasets

    folders = (Path(matplotlib.get_data_path()), Path(sklearn.datasets.__file__).with_name("images"))
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".jpg", ".png")]
    return [path for path in found if path.stat().st_size > 10_000]  # icons are small


def drawings() -> dict[str, Image.Image]:
    random = np.random.default_rng(0)
    letter, chart = Image.new("L", (800, 1000), 255), Image.new("L", (800, 600), 255)
    for line in range(40, 960, 18):
        ImageDraw.Draw(letter).text(
            (60, line), "Dear colleague, the child has had a cough for three days", fill=0
        )
    for bar in range(10):
        top = 550 - int(random.integers(50, 450))
        ImageDraw.Draw(chart).rectangle((80 + 65 * bar, top, 120 + 65 * bar, 550), fill=90)
    gradient = np.tile(np.linspace(0, 255, 500), (500, 1)).astype(np.uint8)
    noise = random.integers(0, 255, (400, 400)).astype(np.uint8)
    across, down = np.mgrid[-1:1:400j, -1:1:400j]
    disc = ((across**2 + down**2 < 0.6) * 180 + 20).astype(np.uint8)
    arrays = {"gradient": gradient, "noise": noise, "disc": disc}
    return {
        "letter": letter,
        "chart": chart,
        **{name: Image.fromarray(array) for name, array in arrays.items()},
    }


def test_what_is_no_chest_x_ray_is_refused(engine: Engine) -> None:
    files = {path.name: path.read_bytes() for path in photographs()}
    files |= {name: pictures.encoded(image, "PNG") for name, image in drawings().items()}
    assert len(files) >= 10
    for name, data in files.items():
        with pytest.raises(InputRejected) as caught:
            engine.examine(data)
        assert caught.value.code == "not_a_chest_xray", name


def negative(path: Path) -> bytes:
    with Image.open(path) as image:
        return pictures.encoded(ImageOps.invert(image.convert("L")), "PNG")


def test_a_negative_gets_no_call(engine: Engine) -> None:
    """Ensure it on samples; of 55 negatives of real X-rays, 51 were atypical and four refused."""
    for path in XRAYS:
        with contextlib.suppress(InputRejected):
            seen = engine.examine(negative(path))
            assert (seen.finding.label, "atypical" in seen.warnings) == ("uncertain", True)


def test_an_atypical_image_never_gets_a_confident_label(engine: Engine) -> None:
    files = [path.read_bytes() for path in XRAYS]
    strange = [negative(path) for path in XRAYS if path.stem in ("normal-2", "pneumonia-1")]
    for data in [*files, *strange]:
        seen = engine.examine(data)
        assert seen.finding.typicality is not None
        assert seen.finding.typicality.is_atypical == ("atypical" in seen.warnings)
        assert seen.finding.label == "uncertain" or not seen.finding.typicality.is_atypical


def test_the_map_is_the_logit_spread_out(engine: Engine) -> None:
    """Class activation mapping is exact here: the mean of the map is the logit."""
    gray = pictures.sample()
    logits, maps, _, _ = engine.outputs(network_input(gray, engine.calibration.size))
    assert float(maps[0].mean()) == pytest.approx(float(logits[0, 0]), abs=1e-3)
    assert maps.shape[1:] == (10, 10)


def test_a_batch_changes_no_answer(engine: Engine) -> None:
    inputs = np.concatenate(
        [network_input(Image.open(path).convert("L"), engine.calibration.size) for path in XRAYS]
    )
    together = engine.outputs(inputs)[0]
    alone = np.concatenate([engine.outputs(single[None])[0] for single in inputs])
    assert np.abs(together - alone).max() < 1e-3


def test_a_verdict_does_not_depend_on_what_is_judged_beside_it(engine: Engine) -> None:
    """P agrees to four decimals alone, on more threads than cores, and in batches of eight."""
    files = [path.read_bytes() for path in XRAYS] * 4
    alone = [engine.examine(data).finding.probability for data in files]
    with ThreadPoolExecutor(6) as pool:
        beside = [seen.finding.probability for seen in pool.map(engine.examine, files)]
    assert beside == alone
    pixels = np.concatenate(
        [prepare(*decode(data, 50_000_000)[:2], engine.calibration.size)[0] for data in files]
    )
    for batch in range(0, len(files), 8):
        logits = engine.outputs(pixels[batch : batch + 8])[0]
        assert len(logits) == 8
        exact = [engine.calibration.probability(float(logit)) for logit in logits[:, 0]]
        together = [round(min(max(p, 0.0001), 0.9999), 4) for p in exact]
        assert together == alone[batch : batch + 8]


def test_the_torch_reference_agrees(engine: Engine) -> None:
    """The largest difference of P is below 1e-4."""
    from model.reference import TorchReference

    reference = TorchReference(SHIPPED.with_suffix(".safetensors"), engine.calibration)
    inputs = np.concatenate(
        [network_input(Image.open(path).convert("L"), engine.calibration.size) for path in XRAYS]
    )
    inputs = np.concatenate([inputs, inputs[:, :, ::-1].copy(), inputs + np.float32(0.3)])
    ours, theirs = engine.outputs(inputs), reference.outputs(inputs)
    sigmoid = lambda logit: 1 / (1 + np.exp(-(engine.calibration.slope * logit + engine.calibration.offset)))  # noqa: E731
    assert np.abs(sigmoid(ours.logits[:, 0]) - sigmoid(theirs.logits[:, 0])).max() < 1e-4
    assert np.abs(ours.maps - theirs.maps).max() < 1e-2
    assert np.allclose(ours.distances, theirs.distances, rtol=1e-3)
    assert np.allclose(ours.outside, theirs.outside, atol=1e-3)


def test_original_and_squashed_copy_agree(engine: Engine) -> None:
    for path in XRAYS:
        with Image.open(path) as image:
            squashed = pictures.encoded(
                image.convert("L").resize((224, 224), Image.Resampling.BICUBIC), "JPEG", quality=90
            )
        original, copy = engine.examine(path.read_bytes()).finding, engine.examine(squashed).finding
        assert abs(original.probability - copy.probability) < 0.3  # drawings: P is steep in the middle


def test_the_preview_is_small_gray_and_says_nothing_else(engine: Engine) -> None:
    wide = pictures.with_text(pictures.sample().resize((2400, 1800)), "Erika Mustermann")
    preview = engine.examine(wide).preview
    assert b"Mustermann" not in preview
    with Image.open(io.BytesIO(preview)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (1200, 900))
        assert not image.getexif()


def test_a_full_picture_has_every_pixel_and_the_rule_of_previews() -> None:
    full, source = Engine(full_previews=True), Image.open(XRAYS[0]).convert("L").resize((2400, 1950))
    file = io.BytesIO()
    source.save(file, "JPEG", quality=95, comment=b"Mustermann")
    preview = full.examine(file.getvalue()).preview
    assert preview
    assert b"Mustermann" not in preview
    with Image.open(io.BytesIO(preview)) as image:
        assert (image.size, image.mode) == ((2400, 1950), "L")
        assert np.abs(np.asarray(image, int) - np.asarray(source, int)).mean() < 3
    written = dicoms.dicom(BurnedInAnnotation="YES")
    assert full.examine(written).preview is None
    assert Engine(full_previews=True, burned_in_previews=True).examine(written).preview


@pytest.mark.parametrize(
    ("width", "shown"), [(900, 900), (1280, 1280), (1281, 641), (2560, 1280), (2561, 854)]
)
def test_a_preview_has_640_to_1280_pixels(width: int, shown: int) -> None:
    preview = encode_preview(Image.linear_gradient("L").resize((width, 100)))
    with Image.open(io.BytesIO(preview)) as image:
        assert image.width == shown


@pytest.mark.parametrize(("width", "decoded"), [(1279, 1279), (1280, 640), (2559, 1280), (2560, 640)])
def test_a_jpeg_is_halved_as_it_is_decoded(engine: Engine, width: int, decoded: int) -> None:
    large = pictures.sample().resize((width, width - 300), Image.Resampling.BICUBIC)
    jpeg, png = pictures.encoded(large, "JPEG", quality=95), pictures.encoded(large, "PNG")
    assert decode(jpeg, 50_000_000)[0].width == decoded
    halved, whole = engine.examine(jpeg), engine.examine(png)
    assert (halved.facts.width, halved.facts.height) == (width, width - 300)
    assert halved.finding.probability == pytest.approx(whole.finding.probability, abs=0.06)


@pytest.mark.parametrize("size", [(65_000, 64), (64, 65_000)])
def test_the_longest_jpeg_is_decoded(size: tuple[int, int]) -> None:
    gray, facts, _ = decode(pictures.encoded(Image.new("L", size, 90), "JPEG"), 50_000_000)
    assert (facts.width, facts.height) == size
    assert max(gray.size) == 8_125  # a decoder shrinks to an eighth at most


def test_other_files_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for content in (b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="is no network of this release"):
            Engine(path)
    with pytest.raises(UsageError):
        Engine(tmp_path / "none.onnx")


@pytest.mark.whole
def test_serving_imports_no_torch() -> None:
    code = (
        "import sys; from model.serve.engine import Engine; Engine().examine(open(sys.argv[1], 'rb').read());"
        "assert not {'torch', 'torchvision', 'onnx', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(pictures.SAMPLE)], check=True, timeout=60)


@pytest.mark.parametrize(("logit", "told"), [(-60, 0.0001), (60, 0.9999)])
def test_no_probability_is_told_as_certain(logit: float, told: float) -> None:
    engine = Engine()
    grid = np.full((10, 10), logit, np.float32)
    outputs = Outputs(np.array([logit, 0], np.float32), grid, np.float32(0), np.float32(-20))
    finding = interpret(engine.calibration, outputs, ImageFacts("image/png", 100, 100))
    assert finding.probability == told
    assert finding.label == ("pneumonia" if logit > 0 else "normal")
