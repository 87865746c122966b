"""Serve with Ray Serve, batches and a replica for each core: `ray_serve PORT OUT`."""

import os
import signal
import sys
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from bench.peers import plain


@serve.deployment(
    num_replicas=os.cpu_count() or 1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5}
)
class Service:
    """Decode, judge as a batch, write previews."""

    def __init__(self, out: str) -> None:
        self.session, self.about, self.out = plain.session(), plain.calibration(), out

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.01)
    async def predict(self, files: list[bytes]) -> list[dict[str, Any]]:
        """Return an answer for each file."""
        grays = [plain.read(data) for data in files]
        pixels = np.stack([plain.network_input(gray, self.about["size"]) for gray in grays])
        logits, maps, *_ = self.session.run(None, {"image": pixels})
        for gray in grays:
            plain.write_preview(gray, self.out)
        return [plain.answer(self.about, float(of[0]), grid) for of, grid in zip(logits, maps, strict=True)]

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Judge the image in the request's body."""
        return await self.predict(await request.body())


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Service.bind(sys.argv[2]), route_prefix="/predict")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
