"""Judge in a warm loop in torch, one image after the other on all cores: `torch_loop OUT FILE...`.

With one file it is the original project's way: a new process for each image. Prints one answer per line, then
the seconds that the loop took without its first image, which is the warm-up.
"""

import json
import sys
import time
from pathlib import Path

import torch

from bench.peers import plain
from model import SHIPPED
from model.train.export import load_network


def main(out: str, paths: list[str]) -> None:
    """Judge files."""
    network, about = load_network(SHIPPED.with_suffix(".safetensors")), plain.calibration()
    clock = time.perf_counter()
    for number, path in enumerate(paths):
        if number == 1:
            clock = time.perf_counter()
        gray = plain.read(Path(path).read_bytes())
        pixels = torch.from_numpy(plain.network_input(gray, about["size"]))
        with torch.inference_mode():
            logits, maps, *_ = network(pixels[None])
        plain.write_preview(gray, out)
        answer = plain.answer(about, float(logits[0, 0]), maps[0].numpy())
        sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.write(f"{time.perf_counter() - clock}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
