"""Import torchvision, even where its compiled operators do not load.

A CPU build of torch beside the package index's torchvision (built for CUDA) fails at import: "operator
torchvision::nms does not exist". The transforms need no operator, so declaring the two schemas that the
import looks up is enough.
"""

import importlib.util
from pathlib import Path

import torch

_LIBRARIES: list[torch.library.Library] = []  # a declared schema lives as long as its Library object


def _declare_missing_operators() -> None:
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            declared = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _LIBRARIES.append(declared)


_declare_missing_operators()

from torchvision import models  # noqa: E402
from torchvision.transforms import v2  # noqa: E402
from torchvision.tv_tensors import Image as Pixels  # noqa: E402
from torchvision.tv_tensors import Mask  # noqa: E402

__all__ = ["Mask", "Pixels", "models", "v2"]
