"""The figures exist and show the right content."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_curve
from torch import nn

from model.data import Sample, load_origins, load_samples
from model.evaluate.bootstrap import Bootstrap
from model.evaluate.measure import Cases
from model.evaluate.pictures import charts, gallery
from model.evaluate.pictures.figures import COLOURS, folder
from model.evaluate.pictures.report import history_of, network_beside
from model.evaluate.pictures.summary import layers, write_summary
from model.train.network import Network, NetworkConfig
from pipeline.errors import UsageError
from pipeline.verdict import Label
from tests.model.evaluate.test_measure import finding
from tests.support.commands import cxr
from tests.support.fakes import SAMPLES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide the synthetic samples under names of the data set's form."""
    root = tmp_path_factory.mktemp("data")
    for number in (1, 2, 3, 4):
        kind = ("bacteria", "virus")[number % 2]
        for folder_name, source, name in (
            ("NORMAL", f"normal-{1 + number % 2}.jpeg", f"IM-000{number}-0001.jpeg"),
            ("PNEUMONIA", f"pneumonia-{1 + number % 2}.jpeg", f"person{number}_{kind}_1.jpeg"),
        ):
            (root / folder_name).mkdir(exist_ok=True)
            data = (SAMPLES / source).read_bytes()
            (root / folder_name / name).write_bytes(data + b"%d" % number)  # not the same file twice
    return root


def pixels(path: Path) -> np.ndarray:
    """Return a figure as [height, width, 3] after checking that it is one."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert not picture.text
        assert 700 <= picture.width <= 2500
        assert 400 <= picture.height <= 2500
        found = np.asarray(picture.convert("RGB"), int)
    assert found.std() > 8  # something is drawn
    assert (found[:8] == 255).all()  # on white
    return found


def has_colour(picture: np.ndarray, colour: str) -> bool:
    """Return whether more than a few pixels have nearly this colour."""
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.abs(picture - wanted).max(axis=2) < 6).sum() > 50)


def test_explore_draws_and_counts(data: Path, tmp_path: Path) -> None:
    answer = cxr("explore", data, "--out", tmp_path / "figures")
    assert answer.returncode == 0, answer.stderr
    assert b"never commit" in answer.stderr
    table = answer.stdout.decode()
    assert "8 images" in table
    row = next(line for line in table.splitlines() if "│ all " in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["all", "8", "8", "4", "2", "2", "50%"]
    written = sorted(path.name for path in (tmp_path / "figures").glob("*.png"))
    assert written == ["classes.png", "samples.png", "sizes.png"]
    for name in written:
        pixels(tmp_path / "figures" / name)
    bars = pixels(tmp_path / "figures/classes.png")
    assert all(has_colour(bars, COLOURS[kind]) for kind in ("normal", "bacterial", "viral"))


def test_evaluate_writes_everything_and_says_json_alone(data: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    answer = cxr("evaluate", data, "--all", "--json", "--out", tmp_path / "figures")
    assert answer.returncode == 0, answer.stderr
    metrics = json.loads(answer.stdout)
    assert metrics["images"] == 8
    assert metrics["at_decision"].keys() == {"threshold", "accuracy", "sensitivity", "specificity"}
    assert json.loads((tmp_path / "figures/metrics.json").read_text()) == metrics
    assert b"never commit" in answer.stderr
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {
        *("confusion.png", "curves.png", "reliability.png", "probabilities.png"),
        *("batch.png", "most-wrong.png", "losses.png"),
    }
    for path in (tmp_path / "figures").glob("*.png"):
        pixels(path)
    assert "multiply-adds" in (tmp_path / "figures/model-summary.txt").read_text()
    shown = subprocess.run(["git", "status", "-s"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert shown == b""  # the figures are not even offered for a commit


def judged(tmp_path: Path, said: list[tuple[int, float, Label | None]]) -> tuple[list[Sample], Cases, list]:
    samples, findings = [], []
    for index, (label, probability, word) in enumerate(said):
        path = tmp_path / f"{index}.png"
        Image.new("L", (60, 40), 128).save(path)
        samples.append(Sample(path, label, -1, f"p{index}", "report"))
        findings.append(finding(probability, word))
    return samples, Cases.of(samples, findings), findings


def test_a_batch_marks_right_and_wrong(tmp_path: Path) -> None:
    right: list[tuple[int, float, Label | None]] = [(0, 0.1, "normal"), (1, 0.9, "pneumonia")]
    for said, found in ((right, (True, False)), ([*right, (0, 0.9, "pneumonia")], (True, True))):
        samples, cases, findings = judged(tmp_path, said)
        gallery.batch(samples, findings, cases, tmp_path / "batch.png")
        with Image.open(tmp_path / "batch.png") as picture:
            drawn = np.asarray(picture.convert("RGB"), int)
        assert (has_colour(drawn, gallery.RIGHT), has_colour(drawn, gallery.WRONG)) == found


def test_the_most_wrong_come_first_and_the_refused_never(tmp_path: Path) -> None:
    said: list[tuple[int, float, Label | None]] = [
        (0, 0.6, "uncertain"),
        (1, 0.9, "pneumonia"),
        (0, 0.9, None),
        (1, 0.1, "normal"),
    ]
    _, cases, _ = judged(tmp_path, said)
    assert gallery.farthest(cases) == [3, 0, 1]


def test_the_curves_and_their_bands_are_those_of_the_images(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    truth = random.integers(0, 2, 80)
    probability = np.round(np.clip(random.normal(0.35 + 0.3 * truth, 0.2), 0, 1), 3)
    said: list[tuple[int, float, Label | None]] = [
        (int(label), float(p), "uncertain") for label, p in zip(truth, probability, strict=True)
    ]
    _, cases, _ = judged(tmp_path, said)
    roc, precision = charts.curve_bands(cases, Bootstrap(cases.patients))
    false, true, _ = roc_curve(truth, probability)
    for place in (50, 100, 250):  # of 501 from 0 to 1
        reached = true[false <= place / 500].max()
        assert roc[0, place] >= reached - 1e-9
        threshold = np.sort(probability[truth == 1])[::-1][int(np.ceil(place / 500 * truth.sum())) - 1]
        called = probability >= threshold
        assert precision[0, place] == pytest.approx(truth[called].mean())
    for value, low, high in (roc, precision):
        assert (low <= value + 1e-9).all()
        assert (value <= high + 1e-9).all()
        assert (high - low)[1:-1].max() > 0.1


def test_layers_are_counted_as_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    network.append(nn.Linear(4 * 5 * 5, 3))
    conv, norm, linear = layers(network, torch.zeros(1, 1, 10, 10))
    assert (conv.output, conv.parameters, conv.multiply_adds) == ((4, 5, 5), 36, 4 * 5 * 5 * 9)
    assert (norm.parameters, norm.multiply_adds) == (8, 0)
    assert (linear.parameters, linear.multiply_adds) == (303, 300)


def test_the_summary_leaves_no_parameter_out(tmp_path: Path) -> None:
    network = Network(NetworkConfig())
    found = layers(network, torch.zeros(1, 1, 64, 64))
    assert sum(layer.parameters for layer in found) == sum(part.numel() for part in network.parameters())
    shipped = network_beside(Path("model/weights/cxr-3.onnx"))
    assert shipped is not None
    assert all(len(history) >= 2 for history in history_of(shipped))
    words = write_summary(shipped, 64, tmp_path / "summary.txt")
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].startswith("total ")
    assert "million parameters" in words


def test_a_network_is_found_beside_its_onnx_file(tmp_path: Path) -> None:
    assert network_beside(tmp_path / "cxr-9.onnx") is None
    (tmp_path / "network.safetensors").touch()
    assert network_beside(tmp_path / "cxr-9.onnx") == tmp_path / "network.safetensors"
    (tmp_path / "cxr-9.safetensors").touch()
    assert network_beside(tmp_path / "cxr-9.onnx") == tmp_path / "cxr-9.safetensors"


def test_sizes_are_of_the_originals_and_never_of_resized_copies(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    samples = load_samples(tmp_path)
    files = load_origins(tmp_path, samples)
    assert {(origin.width, origin.height) for origin in files} >= {(1000, 800)}
    assert not any(origin.colour for origin in files)
    first, second = samples[0].path, samples[1].path
    with Image.open(second) as image:
        image.convert("RGB").save(second)
    row = f"file,original_width,original_height\n{first.name},2000,1500\n{second.name},,\n"
    (tmp_path / "manifest.csv").write_text(row)
    listed = load_origins(tmp_path, samples)
    assert (listed[0].width, listed[0].height) == (2000, 1500)
    assert all(origin.width is None for origin in listed[1:])
    assert [origin.colour for origin in listed[:3]] == [False, True, False]


def test_a_folder_of_the_user_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(UsageError, match="name another"):
        folder(tmp_path / "notes.txt")


def test_the_figures_words_name_members_and_the_line_of_perfect_calibration(tmp_path: Path) -> None:
    histories = [
        [
            {"epoch": epoch, "loss": loss / epoch, "validation_loss": loss, "validation_auc": 0.9}
            for epoch in (1, 2)
        ]
        for loss in (0.4, 0.3)
    ]
    charts.losses(histories, tmp_path / "losses.svg")
    drawn = (tmp_path / "losses.svg").read_text()  # words stand in comments before their outlines
    for words in ("member 1, training: 0.200", "member 2, training: 0.150", "member 2, validation: 0.900"):
        assert f"<!-- {words} -->" in drawn
    _, cases, _ = judged(tmp_path, [(0, 0.1, "normal"), (1, 0.9, "pneumonia")] * 3)
    metrics: Any = SimpleNamespace(ece=0.1, brier=0.1)
    charts.reliability(cases, Bootstrap(cases.patients), metrics, tmp_path / "reliability.svg")
    assert "<!-- perfect calibration -->" in (tmp_path / "reliability.svg").read_text()
