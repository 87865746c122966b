"""Calibration for one department: better there, or not written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn.linear_model import LogisticRegression

from model import SHIPPED, site
from model.calibrate import fit_platt
from model.data import Sample
from model.onnxfile import with_note
from model.serve.engine import Engine, Outputs
from model.site import SiteCard, calibrate_site, table
from pipeline.errors import CxrError
from pipeline.records import ImageFacts
from pipeline.settings import Settings
from tests.support import pictures
from tests.support.commands import cxr

FACTS = ImageFacts("image/png", 100, 100)


def seen(number: int, shift: float, apart: float = 4.0) -> list[site._Seen]:
    """Return outputs of a network on a department's images, with logits off by `shift`."""
    random, base = np.random.default_rng(1), Engine().calibration
    found = []
    for index in range(2 * number):
        sick = index % 2
        wanted = random.normal(apart * (sick - 0.5), np.sqrt(apart))  # the logit of a P that is right
        logit = np.float32((wanted - base.offset) / base.slope + shift)
        found.append(
            site._Seen(
                Sample(Path(f"{index}.png"), sick, -1, f"p{index // 3}", "train"),
                FACTS,
                Outputs(
                    np.array([logit, 0], np.float32),
                    np.full((10, 10), logit, np.float32),
                    np.float32(base.typicality.atypical_above * (0.5 if index % 7 else 1.2)),
                    np.float32(base.outside_above - 1),
                ),
            )
        )
    return found


def one_patient(one: site._Seen) -> site._Seen:
    return replace(one, sample=replace(one.sample, patient="p0" if one.sample.label else one.sample.patient))


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[site._Seen]:
    """Provide the list of images that calibration finds instead of those of a folder."""
    found: list[site._Seen] = []
    monkeypatch.setattr(site, "_look", lambda *_: found)
    return found


def test_a_network_that_is_off_is_put_right(looked: list[site._Seen], tmp_path: Path) -> None:
    looked += seen(200, shift=2.0)
    refused = [replace(one.sample, path=Path(f"r{number}")) for number, one in enumerate(looked[:40])]
    looked += refused  # type: ignore[arg-type]  # images that it refuses count as such, and nothing else
    out = tmp_path / "site.onnx"
    card = calibrate_site(tmp_path, out, Settings())
    assert card.gain.low > 0.1
    assert card.before.at_decision.specificity.value < 0.8 < card.after.at_decision.specificity.value
    assert card.after.ece.value < 0.05 < card.before.ece.value
    assert card.before.uncertain.value > 0.1
    assert card.before.refused.value == card.after.refused.value == pytest.approx(40 / 440, abs=1e-3)
    assert "right when certain" in table(card)
    own = Engine().calibration
    limit = own.typicality.atypical_above
    assert card.calibration.typicality.atypical_above == pytest.approx(1.1 * limit, abs=0.1)
    assert card.calibration.outside_above == own.outside_above
    assert "fewer X-rays of adults" in table(card)

    made, shipped = Engine(out), Engine()
    assert made.calibration == card.calibration
    assert (made.model.version, made.model.sha256) == ("3-site", card.sha256)
    assert SiteCard.model_validate_json((tmp_path / "site.json").read_bytes()) == card
    pixels = np.random.default_rng(0).normal(size=(1, 1, 160, 160)).astype(np.float32)
    for own, other in zip(made.outputs(pixels), shipped.outputs(pixels), strict=True):
        assert np.array_equal(own, other)  # the network is the same


def test_what_is_not_shown_to_be_better_is_not_written(looked: list[site._Seen], tmp_path: Path) -> None:
    out = tmp_path / "site.onnx"
    for found, said in (
        (seen(site.LEAST - 1, shift=2.0), "too few images: of NORMAL/ the network judges 99, of 66 patients"),
        ([one_patient(one) for one in seen(200, shift=2.0)], "judges 200, of 1 patients"),
        (seen(200, shift=0.0), "do not show that a calibration of their own would be better"),
        (seen(200, shift=2.0, apart=0.5), "cannot tell these images apart"),
    ):
        looked[:] = found
        with pytest.raises(CxrError, match=said):
            calibrate_site(tmp_path, out, Settings())
    assert not list(tmp_path.iterdir())


def test_the_command_reads_any_image_and_says_what_lacks(tmp_path: Path) -> None:
    for name in ("NORMAL", "PNEUMONIA"):
        (tmp_path / name).mkdir()
    for index, make in enumerate(pictures.GOOD.values()):
        (tmp_path / ("NORMAL", "PNEUMONIA")[index % 2] / f"{index}").write_bytes(make())
    (tmp_path / "NORMAL" / "notes.txt").write_text("no image")
    answer = cxr("calibrate", tmp_path, "--out", tmp_path / "site.onnx")
    assert answer.returncode == 1
    assert b"100 of 20 patients are needed" in answer.stderr
    assert not (tmp_path / "site.onnx").exists()
    for out in (tmp_path / "site.json", tmp_path / "none" / "site.onnx"):
        answer = cxr("calibrate", tmp_path, "--out", out)
        assert (answer.returncode, b"ends in .onnx" in answer.stderr) == (2, True)


def test_a_note_is_set_and_all_else_stays() -> None:
    before = onnx.load(SHIPPED)
    after = onnx.load_from_string(
        with_note(SHIPPED.read_bytes(), "calibration", json.dumps({"ü": "x" * 300}))
    )
    assert [(note.key, json.loads(note.value)) for note in after.metadata_props] == [
        ("calibration", {"ü": "x" * 300})
    ]
    again = onnx.load_from_string(with_note(with_note(SHIPPED.read_bytes(), "a", "1"), "a", "2"))
    assert [(note.key, note.value) for note in again.metadata_props][1:] == [("a", "2")]
    for model in (before, after):
        del model.metadata_props[:]
    assert after == before


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x72\x05ab", b"\x0f\x01", b"\x08"])
def test_what_is_no_onnx_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an ONNX file"):
        with_note(data, "a", "b")


@pytest.mark.parametrize(("spread", "apart"), [(1.0, 1.0), (3.0, 2.0), (0.01, 0.005), (8.0, -2.0)])
def test_platts_fit_is_that_of_a_library(spread: float, apart: float) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 400)
    logits = random.normal(0, spread, 400) + apart * (2 * truth - 1)
    fitted = LogisticRegression(C=1e3, max_iter=1000, tol=1e-8).fit(logits[:, None], truth)
    expected = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    assert fit_platt(logits, truth) == pytest.approx(expected, rel=1e-3, abs=1e-4)
