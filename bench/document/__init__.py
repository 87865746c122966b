"""Write docs/benchmarks.md and its charts from the measurements of `bench.report`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.document import charts

NAME = "benchmarks.md"
_WAYS_CHART, _IMAGE_CHART = "benchmark-ways.svg", "benchmark-image.svg"
_TRIED = Path(__file__).with_name("tried.md")  # written by hand
Json = dict[str, Any]
Row = tuple[object, ...]


def write(seen: Json, folder: Path) -> None:
    """Write the document and the charts into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(render(seen), encoding="utf-8")
    if "compare" in seen:
        charts.ways(seen["compare"], folder / _WAYS_CHART)
    if "worker" in seen:
        charts.image(seen["worker"], folder / _IMAGE_CHART)


def render(seen: Json) -> str:
    """Return the document; parts that were not measured are left out."""
    sections = [section(seen[name]) for name, section in _SECTIONS.items() if name in seen]
    rows = [row for name, rows in _FIGURES.items() if name in seen for row in rows(seen[name])]
    more = [f"## Other figures\n\n{_table(('what', 'figure'), rows)}"] if rows else []
    tried = _TRIED.read_text(encoding="utf-8").strip()
    return "\n\n".join([_HEAD, _table(("on", ""), seen["facts"].items()), *sections, *more, tried]) + "\n"


_HEAD = """# Benchmarks

Written by `make bench IMAGES=folder`; do not edit. Parts of it may be measured again without the others;
figures that are compared were measured together. The ratios carry over to other machines better than the
figures. The head of each file in [bench/](../bench) describes what is measured, and how."""


def _compare(ways: list[Json]) -> str:
    rows = [
        (way["name"], charts.figures(way["rate"]), f"{way['times']:.3g}" if way["times"] else "")
        if way["rate"]
        else (way["name"], way["note"], "")
        for way in ways
    ]
    return f"""## Ways to serve this network

Same images, same network: probability and map as JSON, and a preview on disk. The peers use Pillow in the
usual way: they decode whole images, and make previews with `thumbnail` to 1024 pixels. The worker halves
a JPEG while decoding it and shrinks by a whole number (640 to 1280). The servers run ONNX Runtime and
NumPy with one thread, a worker for each core, and batches of at most 8. They receive the images over HTTP,
32 at a time; `cxr worker` receives names, three batches of 32 at a time, and reads the files. Only `cxr
worker` writes whole verdicts, with conditional writes, and refuses images that are not chest X-rays. Its
images are already in its inbox, on disk and in the system's cache. The client shares the cores. Each
server ran in turn with the worker, and was halted while the worker ran; the last column is the median of
the rounds' ratios. The other ways ran once, over five processes or 64 images.

![Images per second of each way, logarithmic]({_WAYS_CHART})

{_table(("way", "images per second", "speed-up of `cxr worker`"), rows)}"""


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
images, bound and worker in turn; the share is the median of the rounds' shares.

{_table(("", "images per second"), rows)}

![The time of one image by step]({_IMAGE_CHART})

Milliseconds of a thread for one image, from the verdicts' `timing_ms`, with all cores busy: {spent}."""


def _load(of: Json) -> str:
    rows = [
        (f"{at['rate']:.1f}", at["images"], *(f"{at[name]:.0f} ms" for name in ("p50", "p95", "p99")))
        for at in of["at"]
    ]
    return f"""## From arrival to verdict, at the worker

Random arrivals (Poisson), whether or not earlier images are done. Each image is a request of its own, its
file already lies in the inbox, and the time counts from its scheduled arrival. One image alone takes
{of["service_ms"]:.0f} ms. With such requests the worker's capacity is {of["capacity"]:.0f} a second; above
that it falls behind. The last line is at half the capacity: its p99 is {of["ratio"]:.1f} times one image
alone. These are medians of {len(of["ratios"])} rounds, in each of which the three were measured in turn
(other rates were run once); the rounds' ratios are
{", ".join(f"{ratio:.1f}" for ratio in sorted(of["ratios"]))}.
The client shares the cores.

{_table(("images per second", "images", "p50", "p95", "p99"), rows)}"""


def _page(of: Json) -> str:
    rows = [
        (one["name"], *(f"{one[name]:.1f} ms" for name in ("median", "p95", "worst"))) for one in of["asked"]
    ]
    text = f"""## The page over {of["rows"]:,} X-rays

Time to the first byte of the answer.

{_table(("address", "median", "p95", "worst"), rows)}"""
    return f"{text}\n\n{_exported(of['exported'])}" if "exported" in of else text


def _exported(of: Json) -> str:
    return f"""A CSV of all of them has {of["megabytes"]:.1f} MB and takes {of["seconds"]:.1f} s. The page's
process had needed at most {of["peak_before_mb"]:.0f} MB of memory before it, and
{of["peak_after_mb"]:.0f} MB after it."""


_SECTIONS: dict[str, Callable[[Any], str]] = {
    "compare": _compare,
    "worker": _worker,
    "load": _load,
    "page": _page,
}


def _memory(of: Json) -> Iterable[Row]:
    for images, megabytes in zip(of["images"], of["resident_mb"], strict=True):
        yield (
            f"memory of the worker, its judging processes included, after {images:,} images",
            f"{megabytes:.0f} MB",
        )
    yield "growth between them", f"{of['growth']:+.1%}"


def _cold(of: Json) -> Iterable[Row]:
    yield "start of `cxr classify` with one file", f"{of['classify']:.2f} s"
    yield "start of `cxr worker`, until it answers", f"{of['worker']:.2f} s"
    yield "start of the Lambda function: Python, imports, adapters", f"{of['function']:.2f} s"
    yield "its imports, compared with those of its libraries", f"{of['imports']:.2f} times"


def _latency(of: Json) -> Iterable[Row]:
    yield "`cxr up`: from file drop to verdict, median and p95", "{:.0f} and {:.0f} ms".format(*of["drop"])
    yield "the same, compared with judging alone", f"{of['ratio']:.2f} times"


def _inference(of: Json) -> Iterable[Row]:
    for name, median in of["medians_ms"].items():
        yield f"inference, one image and one thread: {name}", f"{median:.1f} ms"


def _ssh(of: Json) -> Iterable[Row]:
    yield "time that SSH adds to a batch of 32", f"{of['cost_ms']:.0f} ms"


def _dicom(of: list[Json]) -> Iterable[Row]:
    for one in of:
        node, other = (f"{one[f'{name}_mb']:.0f} MB/s" for name in ("node", "storescp"))
        yield f"DICOM objects of {one['kind']}: the node and DCMTK's storescp", f"{node} and {other}"
        yield "the same, node to storescp, median of the rounds", f"{one['ratio']:.2f} times"


_FIGURES: dict[str, Callable[[Json], Iterable[Row]]] = {
    "memory": _memory,
    "cold": _cold,
    "latency": _latency,
    "inference": _inference,
    "ssh": _ssh,
    "dicom": _dicom,
}


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
