"""The same answers in torch: the reference that the ONNX engine is held to (P within 1e-4)."""

from pathlib import Path

import torch

from model.engine import Calibration
from model.preprocess import Array
from model.train.export import load_network


class TorchReference:
    """The network of a `network.safetensors` with the calibration of its ONNX file."""

    def __init__(self, weights: Path, calibration: Calibration) -> None:
        self._network = load_network(weights)
        self.calibration = calibration

    @torch.inference_mode()
    def outputs(self, pixels: Array) -> tuple[Array, Array, Array]:
        """As `Engine.outputs`: [N, 1, size, size] -> logits [N, 2], maps [N, h, w], distances [N]."""
        logits, maps, distances = self._network(torch.from_numpy(pixels))
        return logits.numpy(), maps.numpy(), distances.numpy()
