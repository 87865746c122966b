"""Measure from upload to verdict at several arrival rates: `python -m bench.load [FOLDER]`.

It is an open loop: images arrive at random (Poisson), whether or not earlier ones are done, and the time
counts from the scheduled arrival. Each image is a request of its own to `cxr worker`, as from an event. One
image alone, the capacity and arrivals at half of it are measured in turn, several times, because a machine's
speed drifts; what counts is the median of the rounds' ratios.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.images import SAMPLES, Images, paths_of
from bench.running import BATCH, CORES, Worker, worker
from pipeline.verdict import RELEASE

_REQUEST = "POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
RATES = (1.0, 10.0, 50.0)  # images per second
_CLIENTS = 8 * CORES  # clients that wait at the same time when the capacity is measured
_ALONE = 64  # images, one after the other
_FEWEST = 20  # images at a rate
_SEED = 7


@dataclass(frozen=True)
class Latency:
    """Hold the latency at one arrival rate, in milliseconds."""

    rate: float
    images: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Half:
    """Hold one round: an image alone, the capacity, and arrivals at half of it."""

    service_ms: float  # mean of images one after the other
    capacity: float  # images per second
    at: Latency

    @property
    def ratio(self) -> float:
        """Return p99 / service time."""
        return self.at.p99 / self.service_ms


@dataclass(frozen=True)
class Load:
    """Hold the figures of a worker, medians of the rounds."""

    capacity: float
    service_ms: float
    at: list[Latency]  # the last is at half the capacity
    ratio: float  # p99 at half the capacity / service_ms
    ratios: list[float]  # of the rounds


def measure(paths: list[Path], seconds: float, rounds: int) -> Load:
    """Measure each rate, and each round at half the capacity, for so many seconds."""
    images, chance = Images(paths), random.Random(_SEED)
    with worker() as running:
        running.judge(images.drop(running.root, BATCH))  # warm-up
        at = [_at(running, images, rate, seconds, chance) for rate in RATES]
        seen = [_half(running, images, seconds, chance) for _ in range(rounds)]
    middle = Latency(
        rate=statistics.median(one.at.rate for one in seen),
        images=sum(one.at.images for one in seen),
        p50=statistics.median(one.at.p50 for one in seen),
        p95=statistics.median(one.at.p95 for one in seen),
        p99=statistics.median(one.at.p99 for one in seen),
    )
    ratios = [one.ratio for one in seen]
    return Load(
        capacity=statistics.median(one.capacity for one in seen),
        service_ms=statistics.median(one.service_ms for one in seen),
        at=[*at, middle],
        ratio=statistics.median(ratios),
        ratios=ratios,
    )


def _half(running: Worker, images: Images, seconds: float, chance: random.Random) -> Half:
    service, capacity = _alone(running, images, _ALONE), _capacity(running, images, 8 * BATCH)
    return Half(service, capacity, _at(running, images, capacity / 2, seconds, chance))


def _capacity(running: Worker, images: Images, number: int) -> float:
    """Return the images per second with one request each and always enough of them waiting."""
    keys = iter(images.drop(running.root, number))

    async def one_after_the_other() -> None:
        for key in keys:
            await _judged(running, key, time.perf_counter())

    async def all_clients() -> None:
        await asyncio.gather(*(one_after_the_other() for _ in range(_CLIENTS)))

    began = time.perf_counter()
    asyncio.run(all_clients())
    return number / (time.perf_counter() - began)


def _alone(running: Worker, images: Images, number: int) -> float:
    """Return the milliseconds of an image with nothing beside it."""

    async def one_by_one() -> list[float]:
        return [await _judged(running, key, time.perf_counter()) for key in images.drop(running.root, number)]

    return statistics.mean(asyncio.run(one_by_one()))


def _at(running: Worker, images: Images, rate: float, seconds: float, chance: random.Random) -> Latency:
    """Measure arrivals at one rate."""
    keys = images.drop(running.root, max(int(rate * seconds), _FEWEST))

    async def all_at_their_times() -> list[float]:
        due, waiting = time.perf_counter() + 0.1, []
        for key in keys:
            due += chance.expovariate(rate)
            await asyncio.sleep(due - time.perf_counter())
            waiting.append(asyncio.create_task(_judged(running, key, due)))
        return await asyncio.gather(*waiting)

    times = sorted(asyncio.run(all_at_their_times()))
    p50, p95, p99 = (times[int(share * len(times))] for share in (0.5, 0.95, 0.99))
    return Latency(rate, len(times), p50, p95, p99)


async def _judged(running: Worker, key: str, since: float) -> float:
    """Return the milliseconds until an image has its verdict; the client uses as little CPU as it can."""
    body = json.dumps({"release": RELEASE, "jobs": [key]})
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(f"{_REQUEST}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    answer = await reader.read()
    milliseconds = (time.perf_counter() - since) * 1000
    writer.close()
    if b'"classified"' not in answer and b'"rejected"' not in answer:
        raise RuntimeError(f"the worker did not judge the image: {answer[:300]!r}")
    return milliseconds


def lines(seen: Load) -> list[str]:
    """Return the lines to print."""
    return [
        f"one image alone {seen.service_ms:.1f} ms; capacity {seen.capacity:.1f} images per second",
        *(
            f"{at.rate:6.1f} a second ({at.images} images)  median {at.p50:7.1f}   p95 {at.p95:7.1f}"
            f"   p99 {at.p99:7.1f} ms"
            for at in seen.at
        ),
        f"p99 at half the capacity is {seen.ratio:.1f} times one image alone; rounds: "
        + ", ".join(f"{ratio:.1f}" for ratio in seen.ratios),
    ]


def main(folder: Path, seconds: int = 40, rounds: int = 5) -> None:
    """Measure and print."""
    sys.stdout.write("\n".join(lines(measure(paths_of(folder), seconds, rounds))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES, *map(int, sys.argv[2:]))
