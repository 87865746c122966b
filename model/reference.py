"""Compute the same outputs in torch: the reference for the ONNX engine (P agrees within 1e-4)."""

from pathlib import Path

import torch

from model.serve.engine import Calibration, Outputs
from model.serve.preprocess import Array
from model.train.export import load_network


class TorchReference:
    """Run the network of a `network.safetensors` with the calibration of its ONNX file."""

    def __init__(self, weights: Path, calibration: Calibration) -> None:
        self._network = load_network(weights)
        self.calibration = calibration

    @torch.inference_mode()
    def outputs(self, pixels: Array) -> Outputs:
        """Return the same as `Engine.outputs`."""
        return Outputs(*(part.numpy() for part in self._network(torch.from_numpy(pixels))))
