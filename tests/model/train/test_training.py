"""The whole training recipe on a small data set of drawings, and its parts."""

import csv
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from safetensors.torch import load_file

from model.calibrate import choose_thresholds, fit_platt
from model.data import ERAS, load_samples, patient_of
from model.evaluate.folder import evaluate_folder, metrics_table
from model.evaluate.measure import calibration_error
from model.serve.engine import Calibration, Engine, Limits
from model.train import eras, recipe, witness
from model.train.augment import Augment
from model.train.ensemble import plan, train_network
from model.train.member import AVERAGED, Batch, TrainConfig, TrainingRun, is_trained, rate_at, train_member
from model.train.network import Member, Network, NetworkConfig
from model.train.stress import STRESSES
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.verdict import Thresholds
from tests.support import pictures

pytestmark = pytest.mark.timeout(300)  # two slow cores, and five processes that import torch

TINY = TrainConfig(epochs=2, batch=8, network=NetworkConfig(size=64, width=16))
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 64 patients with one or two pictures each; bright spots on the left mean pneumonia."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(7)
    for patient in range(64):
        sick = patient % 2
        folder = root / "train" / ("PNEUMONIA" if sick else "NORMAL")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1 + patient % 3 // 2):
            pixels = random.integers(0, 100, (80, 96)).astype(np.uint8)
            pixels[16:60, 12:44] += np.uint8(120 * sick)
            kind = ("bacteria", "virus")[patient // 2 % 2]
            name = f"person{patient}_{kind}_{number}.png" if sick else f"IM-{patient:04}-{number:04}.png"
            Image.fromarray(pixels).save(folder / name)
    return root


def test_folds_are_of_patients_and_the_same_each_time(data: Path) -> None:
    samples = load_samples(data)
    assert load_samples(data) == samples
    folds = {sample.patient: sample.fold for sample in samples}
    assert all(folds[sample.patient] == sample.fold for sample in samples)
    assert len(folds) == 64
    assert set(folds.values()) == {"train", "validation", "report"}
    assert {sample.viral for sample in samples if sample.label} == {0, 1}
    assert {sample.viral for sample in samples if not sample.label} == {-1}


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person12_virus_3.jpeg", "person12"),
        ("NORMAL2-IM-0115-0001-0002.jpeg", "NORMAL2-IM-0115"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("other.png", "other"),
    ],
)
def test_a_file_name_names_its_patient(name: str, patient: str) -> None:
    assert patient_of(name) == patient


def test_the_manifest_names_patients_and_the_fixed_fold(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    names = sorted(path.name for path in data.rglob("*.png"))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient_key", "original_here"])
        writer.writerows([name, f"p{index // 2}", int(index in (0, 9))] for index, name in enumerate(names))
    samples = load_samples(tmp_path / "train")
    fixed = [sample for sample in samples if sample.fold == "report"]
    assert sorted(sample.path.name for sample in fixed) == [names[i] for i in (0, 1, 8, 9)]


def test_a_copy_never_leaks_into_another_fold(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    before = load_samples(tmp_path)
    report = next(sample for sample in before if sample.fold == "report" and not sample.label)
    for number in range(900, 920):
        shutil.copy(report.path, report.path.with_name(f"IM-{number:04}-0000.png"))
    after = load_samples(tmp_path)
    assert len(after) == len(before)
    assert report.path.read_bytes() not in {s.path.read_bytes() for s in after if s.fold == "train"}


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="NORMAL"):
        load_samples(tmp_path)


def test_a_killed_member_ends_as_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan(load_samples(data), TINY)[0]
    ticks = list(train_member(job, tmp_path / "whole", TINY))
    assert [tick.epoch["epoch"] for tick in ticks if tick.epoch] == [1, 2]
    learn, steps = TrainingRun.learn, []

    def learn_until_the_kill(self: TrainingRun, batch: Batch) -> float:
        steps.append(self.step)
        if len(steps) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, batch)

    monkeypatch.setattr(TrainingRun, "learn", learn_until_the_kill)
    with pytest.raises(KeyboardInterrupt):
        list(train_member(job, tmp_path / "killed", TINY))
    assert not (tmp_path / "killed" / AVERAGED).exists()
    list(train_member(job, tmp_path / "killed", TINY))
    assert steps == list(range(len(steps)))
    whole, resumed = (load_file(tmp_path / name / AVERAGED) for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_stopped_training_saves_every_member_that_runs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    running: list[int] = []

    def stop() -> None:
        while not list(tmp_path.glob("*/state.pt")):
            time.sleep(0.1)
        running.append(len(multiprocessing.active_children()))
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop, daemon=True)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        train_network(data, tmp_path, replace(TINY, epochs=500), QUIET)
    watcher.join(10)
    assert running == [2]  # the others wait for their turns, and take no memory
    assert multiprocessing.active_children() == []
    begun = [path.parent for path in tmp_path.glob("*/state.pt")]
    steps = [torch.load(folder / "state.pt", weights_only=True)["step"] for folder in begun]
    assert steps
    assert all(0 < step < 500 for step in steps)
    assert not (tmp_path / "network.safetensors").exists()


def test_another_recipe_does_not_go_on_in_the_same_folder(data: Path, tmp_path: Path) -> None:
    job = plan(load_samples(data), TINY)[0]
    list(train_member(job, tmp_path, replace(TINY, epochs=1)))
    assert is_trained(tmp_path, replace(TINY, epochs=1))
    for again in (lambda: list(train_member(job, tmp_path, TINY)), lambda: is_trained(tmp_path, TINY)):
        with pytest.raises(UsageError, match="other settings"):
            again()


def test_witnesses_have_not_seen_their_era(data: Path) -> None:
    samples = load_samples(data)
    jobs = plan(samples, TINY)
    assert [job.name for job in jobs] == ["member-1", *(f"witness-{era}" for era in range(1, ERAS + 1))]
    assert len({job.seed for job in jobs}) == len(jobs)
    for era, job in enumerate(jobs[1:]):
        assert job.is_witness
        assert {sample.era for sample in job.held_out} == {era}
        assert era not in {sample.era for sample in job.learned}
        assert not {s.patient for s in job.learned} & {s.patient for s in job.held_out}
    judged = [sample for job in jobs[1:] for sample in job.held_out]
    assert sorted(judged, key=str) == sorted((s for s in samples if s.fold != "report"), key=str)
    assert not any(sample.fold == "report" for job in jobs for sample in (*job.learned, *job.held_out))


def test_eras_follow_the_numbers_of_the_patients(data: Path) -> None:
    for label in (0, 1):
        numbers = sorted(
            (int(re.findall(r"\d+", sample.patient)[0]), sample.era)
            for sample in load_samples(data)
            if sample.label == label
        )
        assert [era for _, era in numbers] == sorted(era for _, era in numbers)
        assert {era for _, era in numbers} == set(range(ERAS))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small network, long enough to learn the drawings."""
    out = tmp_path_factory.mktemp("run")
    config = replace(TINY, averaging=0.9)
    for job in plan(load_samples(data), config):  # here, since a process would take longer than the training
        list(train_member(job, out / job.name, config))
        if job.is_witness:
            witness.testify(job, out / job.name, config)
    strangers = out / "strangers" / "adults"
    strangers.mkdir(parents=True)
    for number in range(8):
        Image.effect_noise((80, 80), 30 + number).save(strangers / f"{number}.png")
    train_network(data, out, config, QUIET, strangers.parent)
    return out


def test_a_trained_network_serves_and_is_measured(data: Path, run: Path) -> None:
    path = recipe.calibrate_and_export(run, data)
    engine = Engine(path)
    assert engine.calibration.size == 64
    assert json.loads((run / "calibration.json").read_text()) == engine.calibration.model_dump()
    metrics = evaluate_folder(data, Settings(weights=path), everything=True)
    assert metrics.auc.low <= metrics.auc.value <= metrics.auc.high
    assert metrics.auc.value > 0.9
    assert metrics.images == len(load_samples(data))
    assert "accuracy" in metrics_table(metrics)


@pytest.mark.parametrize("way", eras.WAYS)
def test_an_era_is_measured_by_a_calibration_of_the_others(run: Path, way: str) -> None:
    said = witness.heard([run / f"witness-{era}" for era in range(1, ERAS + 1)])
    measured = eras.carried_over(said, way, 2)
    assert measured["clean"].images == ((said.era == 2) & (said.stress == "none")).sum()
    assert measured["stressed"].images == ((said.era == 2) & (said.stress != "none")).sum()
    turned = replace(said, logits=np.where((said.era == 2)[:, None], -said.logits, said.logits))
    again = eras.carried_over(turned, way, 2)
    assert again["clean"].not_called_normal.threshold == measured["clean"].not_called_normal.threshold
    assert again["clean"].auc.value == pytest.approx(1 - measured["clean"].auc.value, abs=0.02)


def test_a_witness_that_has_not_ended_is_not_heard(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="witness-4 is not finished"):
        witness.heard([tmp_path / "witness-4"])


def test_kinds_of_film_are_told_by_their_pixels() -> None:
    random = np.random.default_rng(3)
    films = random.normal(120, 30, (40, 224, 224)).clip(0, 200).astype(np.uint8)
    films[:, :, -40:] = 5  # air, in which letters are burned in
    films[:4] = films[:4] // 8 + 100
    films[4:8, :, :-40] = np.minimum(films[4:8, :, :-40], 145) + 110
    for number in (9, 11, 12):
        _write(films[number], "18:24:52", "KV70")
    _write(films[13], "R", "")
    kinds = eras.kinds_of_film(films, np.arange(40) % 2)
    assert np.flatnonzero(kinds["flattest tenth"]).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(kinds["brightest tenth"]).tolist() == [4, 5, 6, 7]
    for kind in ("flattest", "brightest"):
        assert np.bincount(np.flatnonzero(kinds[f"{kind} tenth of each class"]) % 2).tolist() == [2, 2]
    assert np.flatnonzero(kinds["time and voltage burned in"]).tolist() == [9, 11, 12]


def _write(film: npt.NDArray[np.uint8], top: str, bottom: str) -> None:
    image = Image.fromarray(film)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=8)
    pen.text((222, 1), top, 255, font, "ra")
    pen.text((222, 222), bottom, 255, font, "rd")
    film[:] = np.asarray(image)


def test_kinds_of_film_are_measured_beside_all_others(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = witness.heard([run / f"witness-{era}" for era in range(1, ERAS + 1)])
    pixels = eras.pixels_of(said, data)
    assert len(pixels) == (said.stress == "none").sum()
    chosen = np.arange(len(pixels)) % 3 == 0
    monkeypatch.setattr(
        eras, "kinds_of_film", lambda *_: {"third": chosen, "one class": said.truth[: len(pixels)] < 0}
    )
    measured = eras.by_film(said, next(iter(eras.WAYS)), pixels)
    assert {name: of.images for name, of in measured.items()} == {
        "third": chosen.sum(),
        "not: third": (~chosen).sum(),
        "not: one class": len(pixels),
    }
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    next(tmp_path.rglob("person1_*")).unlink()
    with pytest.raises(UsageError, match="witnesses judged"):
        eras.pixels_of(said, tmp_path)


def test_the_map_of_the_network_is_exact() -> None:
    network = Network(NetworkConfig()).eval()
    for member in network.members:
        assert isinstance(member, Member)
        torch.nn.init.normal_(member.head.weight)
    with torch.inference_mode():
        logits, maps, _, _ = network(torch.randn(3, 1, 160, 160))
    assert maps.shape == (3, 10, 10)
    assert torch.allclose(maps.mean((1, 2)), logits[:, 0], atol=1e-4)
    assert sum(parameter.numel() for parameter in network.parameters()) < 5_000_000


def test_augmentation_keeps_shape_and_scale_and_follows_the_seed() -> None:
    films = torch.randint(0, 256, (3, 1, 224, 224), dtype=torch.uint8)
    augment, image = Augment(160, films), films[0]
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(image, image[0] > 128)[0])
    assert results[0].shape == (1, 160, 160)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert 0.5 < float(results[0].std()) < 1.5


def test_platt_finds_the_probabilities_again() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, 20_000)
    truth = (random.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits + 1)))).astype(int)
    slope, offset = fit_platt(logits, truth)
    assert (slope, offset) == (pytest.approx(0.5, abs=0.05), pytest.approx(1, abs=0.1))
    probability = 1 / (1 + np.exp(-(slope * logits + offset)))
    assert calibration_error(truth, probability) < 0.02
    assert calibration_error(truth, probability**3) > 0.1


def test_thresholds_keep_their_promises() -> None:
    random = np.random.default_rng(1)
    truth = np.repeat([0, 1], 5000)
    probability = 1 / (1 + np.exp(-random.normal(np.where(truth, 2, -2), 1.5)))
    thresholds = choose_thresholds(probability, truth)
    assert (probability[truth == 1] >= thresholds.normal_below).mean() >= 0.99
    assert (probability[truth == 0] <= thresholds.pneumonia_above).mean() >= 0.98
    separated = choose_thresholds(truth * 0.98 + 0.01, truth)
    assert (separated.normal_below, separated.pneumonia_above) == (0.35, 0.65)
    assert [separated.label(p) for p in (0.1, 0.35, 0.65, 0.9)] == [
        "normal",
        "uncertain",
        "uncertain",
        "pneumonia",
    ]


def test_another_prevalence_moves_p_by_bayes_and_keeps_the_labels() -> None:
    trained = Calibration(
        name="cxr",
        version="2",
        size=144,
        slope=0.8,
        offset=0.3,
        prevalence=0.75,
        thresholds=Thresholds(normal_below=0.3, pneumonia_above=0.8),
        typicality=Limits(atypical_above=1, refused_above=2),
        outside_above=0,
    )
    for prevalence in (0.001, 0.1, 0.75, 0.999):
        moved = trained.at(prevalence)
        assert moved.prevalence == prevalence
        for logit in np.linspace(-9, 9, 200):
            before, after = trained.probability(logit), moved.probability(logit)
            odds = before / (1 - before) * prevalence / (1 - prevalence) / 3
            assert after == pytest.approx(odds / (1 + odds), rel=1e-6)
            assert moved.thresholds.label(after) == trained.thresholds.label(before)
        assert moved.at(0.75).thresholds.pneumonia_above == pytest.approx(0.8)


@pytest.mark.parametrize("name", STRESSES)
def test_a_stressed_copy_is_still_an_image(name: str) -> None:
    images = torch.from_numpy(np.stack([np.asarray(pictures.sample().resize((224, 224)))] * 2))[:, None]
    stressed = STRESSES[name](images)
    assert stressed.dtype == torch.uint8
    assert stressed.shape[:2] == (2, 1)
    assert torch.equal(stressed, STRESSES[name](images))
    assert (name == "none") == (stressed.shape == images.shape and bool((stressed == images).all()))


def test_the_rate_warms_up_and_comes_down() -> None:
    assert [round(rate_at(done), 3) for done in (0, 0.05, 0.1, 0.55, 1)] == [0, 0.5, 1, 0.5, 0]


def test_the_next_commands_can_be_copied() -> None:
    told = recipe.told(Path("runs/my [first] run/cxr-3.onnx"), Path("chest x-rays")).splitlines()
    command, serve = (line for line in told if line.startswith("  "))
    assert shlex.split(command) == [
        *("cxr", "evaluate", "chest x-rays", "--weights", "runs/my [first] run/cxr-3.onnx")
    ]
    assert shlex.split(serve) == ["CXR_WEIGHTS=runs/my [first] run/cxr-3.onnx", "cxr", "up"]
