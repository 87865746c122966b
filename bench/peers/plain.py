"""What all peers share: the work on an image as one writes it with Pillow and NumPy, and the sessions."""

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
    """The shipped network with one thread, as each of several workers wants it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(_WEIGHTS, options, providers=["CPUExecutionProvider"])


def calibration() -> dict[str, Any]:
    """The shipped network's size and calibration."""
    return json.loads(session().get_modelmeta().custom_metadata_map["calibration"])


def read(data: bytes) -> Image.Image:
    """The bytes of a file as a gray image."""
    return Image.open(io.BytesIO(data)).convert("L")


def network_input(gray: Image.Image, size: int) -> np.ndarray:
    """[1, size, size]: what the network takes, which is ours to say."""
    return preprocess.network_input(gray, size)[0]


def write_preview(gray: Image.Image, folder: str) -> None:
    """A JPEG of at most 1024 pixels a side, under a name of its own; shrinks the image."""
    gray.thumbnail((1024, 1024))
    gray.save(Path(folder) / f"{uuid.uuid4().hex}.jpg", quality=85)


def answer(about: dict[str, Any], logit: float, grid: np.ndarray) -> dict[str, Any]:
    """The probability and the map."""
    probability = 1 / (1 + math.exp(-(about["slope"] * logit + about["offset"])))
    return {"probability": round(probability, 4), "map": grid.astype(float).round(3).tolist()}
