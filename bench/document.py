"""docs/benchmarks.md and its charts, from what `bench.report` has measured."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench import charts

NAME = "benchmarks.md"
_WAYS_CHART, _IMAGE_CHART = "benchmark-ways.svg", "benchmark-image.svg"
Json = dict[str, Any]
Row = tuple[object, ...]


def write(seen: Json, folder: Path) -> None:
    """Write the document and the charts of what was measured into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(render(seen), encoding="utf-8")
    if "compare" in seen:
        charts.ways(seen["compare"], folder / _WAYS_CHART)
    if "worker" in seen:
        charts.image(seen["worker"], folder / _IMAGE_CHART)


def render(seen: Json) -> str:
    """The document; of what was not measured it says nothing."""
    sections = [section(seen[name]) for name, section in _SECTIONS.items() if name in seen]
    rows = [row for name, rows in _FIGURES.items() if name in seen for row in rows(seen[name])]
    more = [f"## Other figures\n\n{_table(('what', 'figure'), rows)}"] if rows else []
    return "\n\n".join([_HEAD, _table(("on", ""), seen["facts"].items()), *sections, *more]) + "\n"


_HEAD = """# Benchmarks

Written by `make bench IMAGES=folder`; do not edit. Parts of it may be measured anew without the
others; what is compared was measured together. The ratios carry over to other machines better than the
figures. What is measured, and how, stands at the head of each file in [bench/](../bench)."""


def _compare(ways: list[Json]) -> str:
    rows = [
        (way["name"], charts.figures(way["rate"]), f"{way['times']:.3g}" if way["times"] else "")
        if way["rate"]
        else (way["name"], way["note"], "")
        for way in ways
    ]
    return f"""## Ways to serve this network

Same images, same network: probability and map as JSON, and a preview on disk. The peers are written with
Pillow as one would: decoded whole, previews by `thumbnail` to 1024 pixels, where the worker halves a JPEG as
it decodes it and shrinks by a whole number (640 to 1280). The servers have ONNX Runtime with one thread, a
worker for each core, and batches of at most 8; they are sent the images over HTTP, 32 at a time, where
`cxr worker` is sent names, three batches of 32 at a time, and reads the files. It alone writes whole
verdicts, on condition, and refuses what is no chest X-ray. The images are in its inbox, on disk and in the
system's cache, beforehand. Whoever asks shares the cores. Each server ran in turn with the worker, and was
halted while that ran; the last column is the median of the rounds' ratios. The other ways ran once, over
five processes or 64 images.

![Images a second of each way, logarithmic]({_WAYS_CHART})

{_table(("way", "images a second", "`cxr worker` does so many times as many"), rows)}"""


def _worker(of: Json) -> str:
    rows = [(f"{step} alone, on all cores", f"{of[step]:.0f}") for step in ("decode", "infer", "write")]
    rows += [
        ("bound: one after the other", f"{of['bound']:.0f}"),
        ("`cxr worker`", f"{of['worker']:.0f}"),
        ("share of the bound", f"{of['share']:.0%}"),
    ]
    spent = ", ".join(f"{step} {value:.1f}" for step, value in charts.steps(of).items())
    return f"""## The worker and its bound

`write` makes the preview and stores it with the verdict. Medians of {of["rounds"]} rounds of {of["images"]}
images, bound and worker in turn; the share is the median of the rounds' own.

{_table(("", "images a second"), rows)}

![Where the time of one image goes]({_IMAGE_CHART})

Milliseconds of a thread for one image, by the verdicts' own `timing_ms`, every core at work: {spent}."""


def _load(of: Json) -> str:
    rows = [
        (f"{at['rate']:.1f}", at["images"], *(f"{at[name]:.0f} ms" for name in ("p50", "p95", "p99")))
        for at in of["at"]
    ]
    return f"""## From arrival to verdict, at the worker

Random arrivals (Poisson), whether or not those before are done; the time counts from when an image was to
arrive, each asked for by itself; its file lies in the inbox already. One image alone takes
{of["service_ms"]:.0f} ms; asked so, the worker can do {of["capacity"]:.0f} a second, and of more it only
falls behind. The last line is at half of that: its p99 is {of["ratio"]:.1f} times one image alone. These are
medians of {len(of["ratios"])} rounds, in each of which the three were measured in turn (of other rates there
is one run each); the rounds' own ratios are {", ".join(f"{ratio:.1f}" for ratio in sorted(of["ratios"]))}.
The client shares the cores.

{_table(("images a second", "images", "p50", "p95", "p99"), rows)}"""


def _page(of: Json) -> str:
    rows = [
        (one["name"], *(f"{one[name]:.1f} ms" for name in ("median", "p95", "worst"))) for one in of["asked"]
    ]
    return f"""## The page over {of["rows"]:,} X-rays

Time to the first byte of the answer.

{_table(("address", "median", "p95", "worst"), rows)}"""


_SECTIONS: dict[str, Callable[[Any], str]] = {
    "compare": _compare,
    "worker": _worker,
    "load": _load,
    "page": _page,
}


def _memory(of: Json) -> Iterable[Row]:
    for images, megabytes in zip(of["images"], of["resident_mb"], strict=True):
        yield f"memory of the worker after {images:,} images", f"{megabytes:.0f} MB"
    yield "its growth in between", f"{of['growth']:+.1%}"


def _cold(of: Json) -> Iterable[Row]:
    yield "start of `cxr classify` with one file", f"{of['classify']:.2f} s"
    yield "start of `cxr worker`, until it answers", f"{of['worker']:.2f} s"
    yield "start of the Lambda function: Python, imports, adapters", f"{of['function']:.2f} s"


def _latency(of: Json) -> Iterable[Row]:
    yield "`cxr up`: from file drop to verdict, median and p95", "{:.0f} and {:.0f} ms".format(*of["drop"])
    yield "the same, against judging alone", f"{of['ratio']:.2f} times"


def _inference(of: Json) -> Iterable[Row]:
    for name, median in of["medians_ms"].items():
        yield f"inference, one image and one thread: {name}", f"{median:.1f} ms"


def _ssh(of: Json) -> Iterable[Row]:
    yield "what SSH adds to a batch of 32", f"{of['cost_ms']:.0f} ms"


_FIGURES: dict[str, Callable[[Json], Iterable[Row]]] = {
    "memory": _memory,
    "cold": _cold,
    "latency": _latency,
    "inference": _inference,
    "ssh": _ssh,
}


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
