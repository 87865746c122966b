"""Share the work of all peers: image processing as usual with Pillow and NumPy, and the sessions."""

import io
import json
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from model.serve import preprocess

_WEIGHTS = Path(__file__).parents[2] / "model" / "weights" / "cxr-3.onnx"


def session() -> onnxruntime.InferenceSession:
    """Load the shipped network with one thread, for one of several workers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(_WEIGHTS, options, providers=["CPUExecutionProvider"])


def calibration() -> dict[str, Any]:
    """Return the shipped network's size and calibration."""
    return json.loads(session().get_modelmeta().custom_metadata_map["calibration"])


def read(data: bytes) -> Image.Image:
    """Read the bytes of a file as a gray image."""
    return Image.open(io.BytesIO(data)).convert("L")


def network_input(gray: Image.Image, size: int) -> np.ndarray:
    """Return the network's input, [1, size, size], from our own preprocessing."""
    return preprocess.network_input(gray, size)[0]


def write_preview(gray: Image.Image, folder: str) -> None:
    """Write a JPEG of at most 1024 pixels a side under a unique name; shrinks the image in place."""
    gray.thumbnail((1024, 1024))
    gray.save(Path(folder) / f"{uuid.uuid4().hex}.jpg", quality=85)


def answer(about: dict[str, Any], logit: float, grid: np.ndarray) -> dict[str, Any]:
    """Return the probability and the map."""
    probability = 1 / (1 + math.exp(-(about["slope"] * logit + about["offset"])))
    return {"probability": round(probability, 4), "map": grid.astype(float).round(3).tolist()}
