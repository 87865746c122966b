"""Serve with BentoML, adaptive batching and a worker for each core: `bentoml serve`.

The variable BENCH_OUT names the folder of the previews.
"""

import os
from typing import Any

import bentoml
import numpy as np
from PIL import Image

from bench.peers import plain


@bentoml.service(workers=os.cpu_count() or 1, traffic={"timeout": 60})
class Service:
    """Decode, judge as a batch, write previews."""

    def __init__(self) -> None:
        self.session, self.about, self.out = plain.session(), plain.calibration(), os.environ["BENCH_OUT"]

    @bentoml.api(batchable=True, max_batch_size=8)
    def predict(self, image: list[Image.Image]) -> list[dict[str, Any]]:
        """Return an answer for each image."""
        grays = [one.convert("L") for one in image]
        pixels = np.stack([plain.network_input(gray, self.about["size"]) for gray in grays])
        logits, maps, *_ = self.session.run(None, {"image": pixels})
        for gray in grays:
            plain.write_preview(gray, self.out)
        return [plain.answer(self.about, float(of[0]), grid) for of, grid in zip(logits, maps, strict=True)]
