"""The whole recipe, from a folder of labelled X-rays to a network that serves: one command, one seed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from model.calibrate import choose_limits, choose_thresholds, fit_platt, pattern_auc
from model.data import Sample, load_pixels, load_samples
from model.engine import Calibration
from model.train.ensemble import predict, train
from model.train.export import export, load_network
from model.train.member import TrainConfig, served_input
from model.train.network import Network
from model.train.stress import STRESSES
from pipeline.errors import UsageError

NAME, MODEL_VERSION = "cxr", "2"


def run(data: Path, out: Path, epochs: int | None = None, seed: int | None = None) -> None:
    """Train in the folder `out`, then calibrate and export; a killed run goes on where it stopped."""
    config = TrainConfig()
    config = replace(config, epochs=epochs or config.epochs, seed=config.seed if seed is None else seed)
    console = Console()
    train(data, out, config, console)
    path = calibrate_and_export(out, data)
    console.print(f"written: {path}; measure it with: cxr evaluate {data} --weights {path}")


def calibrate_and_export(run: Path, data: Path) -> Path:
    """Calibrate the run's network on the validation fold, write it as ONNX beside it, and return its path."""
    network = load_network(run / "network.safetensors")
    folds = load_samples(data)
    samples = [sample for sample in folds if sample.fold == "validation"]
    if not samples:
        raise UsageError(f"{data} has no validation patients to calibrate on; name the data of the training")
    learned = np.array([sample.label for sample in folds if sample.fold == "train"])
    calibration = calibrate(network, samples).at(round(float(learned.mean()), 2))
    path = run / f"{NAME}-{MODEL_VERSION}.onnx"
    export(network, calibration, path)
    (run / "calibration.json").write_text(json.dumps(calibration.model_dump(), indent=1) + "\n")
    return path


def calibrate(network: Network, samples: list[Sample]) -> Calibration:
    """P and thresholds from the samples and their stressed copies; what is typical, from themselves alone."""
    pixels = torch.from_numpy(load_pixels(samples))[:, None]
    outputs = {
        name: predict(network, served_input(stress(pixels), network.config.size))
        for name, stress in STRESSES.items()
    }
    logits = torch.cat([logits for logits, _ in outputs.values()])[:, 0].double().numpy()
    truth = np.tile([sample.label for sample in samples], len(outputs))
    slope, offset = fit_platt(logits, truth)
    clean, distance = outputs["none"]
    return Calibration(
        name=NAME,
        version=MODEL_VERSION,
        size=network.config.size,
        slope=slope,
        offset=offset,
        prevalence=round(float(truth.mean()), 3),
        thresholds=choose_thresholds(1 / (1 + np.exp(-(slope * logits + offset))), truth),
        typicality=choose_limits(distance.double().numpy()),
        pattern_auc=pattern_auc(
            clean[:, 1].double().numpy(),
            np.array([sample.viral for sample in samples]),
            np.array([sample.patient for sample in samples]),
        ),
    )
