"""The whole recipe, from a folder of labelled X-rays to a network that serves: one command, one seed."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from model.calibrate import TYPICAL, choose_limits, choose_thresholds, fit_platt
from model.data import Sample, load_pixels, load_samples
from model.serve.engine import Calibration
from model.train.ensemble import plan, predict, train_network, views
from model.train.export import export_onnx, load_network
from model.train.member import TrainConfig
from model.train.network import Network
from model.train.witness import Testimony, heard
from pipeline.errors import UsageError
from pipeline.verdict import Thresholds

NAME, MODEL_VERSION = "cxr", "3"


def run_recipe(
    data: Path, out: Path, epochs: float | None = None, seed: int | None = None, outside: Path | None = None
) -> None:
    """Train in the folder `out`, then calibrate and export; a killed run goes on where it stopped.

    `outside` holds images of other populations, see `model.evaluate.populations`.
    """
    config = TrainConfig()
    config = replace(config, epochs=epochs or config.epochs, seed=config.seed if seed is None else seed)
    console = Console()
    train_network(data, out, config, console, outside)
    path = calibrate_and_export(out, data)
    console.print(told(path, data), markup=False, highlight=False, soft_wrap=True)  # to be copied as it is


def told(path: Path, data: Path) -> str:
    """Return what was written, and the commands that come next, each on a line of its own."""
    network = shlex.quote(str(path))
    return (
        f"written: {path}\n\nMeasure it:\n  cxr evaluate {shlex.quote(str(data))} --weights {network}\n"
        f"Serve it:\n  CXR_WEIGHTS={network} cxr up"
    )


def calibrate_and_export(run: Path, data: Path) -> Path:
    """Calibrate the run's network, write it as ONNX beside it, and return its path."""
    network = load_network(run / "network.safetensors")
    folds = load_samples(data)
    samples = [sample for sample in folds if sample.fold == "validation"]
    if not samples:
        raise UsageError(f"{data} has no validation patients to calibrate on; name the data of the training")
    jobs = plan(folds, TrainConfig(network=network.config))
    said = heard([run / job.name for job in jobs if job.is_witness])
    learned = np.array([sample.label for sample in folds if sample.fold == "train"])
    calibration = calibrate_network(network, samples, said).at(round(float(learned.mean()), 2))
    thresholds = {name: round(value, 4) for name, value in calibration.thresholds}
    calibration = calibration.model_copy(update={"thresholds": Thresholds(**thresholds)})
    path = run / f"{NAME}-{MODEL_VERSION}.onnx"
    export_onnx(network, calibration, path)
    (run / "calibration.json").write_text(json.dumps(calibration.model_dump(), indent=1) + "\n")
    return path


def calibrate_network(network: Network, samples: list[Sample], said: Testimony) -> Calibration:
    """P and thresholds from what witnesses said of eras that they had not seen; who is outside, from the
    validation fold, as it is served and changed.
    """
    logits = said.logits[:, 0].astype(np.float64)
    slope, offset = fit_platt(logits, said.truth)
    pixels = torch.from_numpy(load_pixels(samples))[:, None]
    known = predict(network, torch.cat(list(views(pixels, 1, network.config.size))))
    return Calibration(
        name=NAME,
        version=MODEL_VERSION,
        size=network.config.size,
        slope=round(slope, 4),
        offset=round(offset, 4),
        prevalence=round(float(said.truth.mean()), 3),
        thresholds=choose_thresholds(1 / (1 + np.exp(-(slope * logits + offset))), said.truth),
        typicality=choose_limits(known.distance.double().numpy()),
        outside_above=round(float(np.quantile(known.outside.double().numpy(), TYPICAL)), 3),
    )
