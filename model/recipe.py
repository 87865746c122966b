"""The whole recipe, from a folder of labelled X-rays to a network that serves: one command, one seed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from model.calibrate import choose_limits, choose_thresholds, fit_platt
from model.data import load_samples
from model.engine import Calibration
from model.ensemble import predict, train
from model.export import export, load_network
from model.train import TrainConfig, validation_tensor
from pipeline.errors import UsageError

NAME, MODEL_VERSION = "cxr", "1"


def run(data: Path, out: Path, epochs: int | None = None, seed: int | None = None) -> None:
    """Train in the folder `out`, then calibrate and export; a killed run goes on where it stopped."""
    config = TrainConfig()
    config = replace(config, epochs=epochs or config.epochs, seed=config.seed if seed is None else seed)
    console = Console()
    train(data, out, config, console)
    path = calibrate_and_export(out, data)
    console.print(f"written: {path}; measure it with: cxr evaluate {data} --weights {path}")


def calibrate_and_export(run: Path, data: Path) -> Path:
    """Calibrate the run's network on the validation fold and write
    `cxr-1.onnx` beside it; returns its path.
    """
    network = load_network(run / "network.safetensors")
    samples = [sample for sample in load_samples(data) if sample.fold == "validation"]
    if not samples:
        raise UsageError(f"{data} has no validation patients to calibrate on; name the data of the training")
    images, labels = validation_tensor(samples, network.config.size)
    outputs, distance = predict(network, images)
    logits, truth = outputs[:, 0].double().numpy(), labels.numpy()
    slope, offset = fit_platt(logits, truth)
    probability = 1 / (1 + np.exp(-(slope * logits + offset)))
    calibration = Calibration(
        name=NAME,
        version=MODEL_VERSION,
        size=network.config.size,
        slope=slope,
        offset=offset,
        prevalence=round(float(truth.mean()), 3),
        thresholds=choose_thresholds(probability, truth),
        typicality=choose_limits(distance.double().numpy()),
    )
    path = run / f"{NAME}-{MODEL_VERSION}.onnx"
    export(network, calibration, path)
    (run / "calibration.json").write_text(json.dumps(calibration.model_dump(), indent=1) + "\n")
    return path
