"""Serve with LitServe, dynamic batching and a worker for each core: `litserve_server PORT OUT`."""

import os
import sys

import litserve
import numpy as np
from fastapi import Request

from bench.peers import plain


class Api(litserve.LitAPI):
    """Decode, judge as a batch, write previews."""

    def __init__(self, out: str) -> None:
        super().__init__(max_batch_size=8, batch_timeout=0.01)
        self.out = out

    def setup(self, device: str) -> None:
        """Load the network in each worker."""
        self.session, self.about = plain.session(), plain.calibration()

    def decode_request(self, request: Request):
        """Return an image and the network's input."""
        gray = plain.read(request["image"].file.read())
        return gray, plain.network_input(gray, self.about["size"])

    def batch(self, inputs):
        """Return images, and one array of inputs."""
        grays, pixels = zip(*inputs, strict=True)
        return grays, np.stack(pixels)

    def predict(self, batch):
        """Return an answer for each image."""
        grays, pixels = batch
        logits, maps, *_ = self.session.run(None, {"image": pixels})
        return list(zip(grays, logits[:, 0], maps, strict=True))

    def unbatch(self, output):
        """Return the outputs, which are separate already."""
        return output

    def encode_response(self, output):
        """Write the preview and return the answer as JSON."""
        gray, logit, grid = output
        plain.write_preview(gray, self.out)
        return plain.answer(self.about, float(logit), grid)


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[2]), accelerator="cpu", workers_per_device=os.cpu_count() or 1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
