"""Compare the shipped network with mobilenet_v3_large: one image, one thread. `python -m bench.inference`

Both run in ONNX Runtime, in turn in one process; the ratio of the medians is what counts.
"""

import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch

from model import SHIPPED
from model.serve.engine import Engine
from model.train.vision import models

_ROUNDS = 200


@dataclass(frozen=True)
class Inference:
    """Hold the medians in milliseconds, and their ratio."""

    medians_ms: dict[str, float]
    ratio: float


def measure() -> Inference:
    """Run both networks in turn."""
    with TemporaryDirectory() as folder:
        sessions = {"cxr": _session(SHIPPED), "mobilenet_v3_large": _session(_mobilenet(Path(folder)))}
    size = Engine().calibration.size
    inputs = {
        "cxr": np.zeros((1, 1, size, size), np.float32),
        "mobilenet_v3_large": np.zeros((1, 3, 224, 224), np.float32),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(_ROUNDS):
        for name, session in sessions.items():
            clock = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: inputs[name]})
            seconds[name].append(time.perf_counter() - clock)
    medians = {name: statistics.median(values) * 1000 for name, values in seconds.items()}
    return Inference(medians, medians["cxr"] / medians["mobilenet_v3_large"])


def main() -> None:
    """Measure and print."""
    seen = measure()
    lines = [f"{name:20} {median:5.1f} ms" for name, median in seen.medians_ms.items()]
    sys.stdout.write("\n".join([*lines, f"ratio {seen.ratio:.2f}"]) + "\n")


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _mobilenet(folder: Path) -> Path:
    path = folder / "mobilenet.onnx"
    network = models.mobilenet_v3_large().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of torch's own calls
        torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), path, dynamo=True, verbose=False)
    return path


if __name__ == "__main__":
    main()
