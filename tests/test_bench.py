"""The benchmark document, written from invented figures, and the comparison of servers."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from bench import document
from bench.images import Images, paths_of
from bench.peers import plain
from model.serve.engine import Engine
from tests.support.fakes import SAMPLES

SEEN = json.loads("""{
 "facts": {"date": "2026-11-24", "processor": "Abacus, 2 cores"},
 "compare": [
  {"name": "a warm loop in torch", "rate": 7.25, "times": 8.5, "note": ""},
  {"name": "A peer", "rate": null, "times": null, "note": "did not run: no such module"},
  {"name": "cxr worker", "rate": 61.5, "times": null, "note": ""}],
 "worker": {"decode": 200, "infer": 180, "write": 250, "bound": 68.8, "worker": 61.5, "share": 0.894,
  "timing_ms": {"fetch": 1, "decode": 12, "infer": 11, "write": 2}, "thread_ms": 32.5,
  "images": 256, "rounds": 7},
 "load": {"capacity": 60, "service_ms": 25, "ratio": 2.4, "ratios": [2.2, 2.4, 2.7], "at": [
  {"rate": 30, "images": 1800, "p50": 30, "p95": 45, "p99": 60}]},
 "dicom": [{"kind": "10 MB", "node_mb": 80, "node_objects": 8, "storescp_mb": 60, "storescp_objects": 6,
  "ratio": 1.33}],
 "page": {"rows": 100000, "asked": [{"name": "worklist", "median": 20, "p95": 31.25, "worst": 40}],
  "exported": {"megabytes": 24.5, "seconds": 9.75, "peak_before_mb": 93, "peak_after_mb": 94}},
 "memory": {"images": [1000, 10000], "resident_mb": [180, 186], "growth": 0.0333}
}""")


def test_the_document_has_the_figures_and_its_charts(tmp_path: Path) -> None:
    document.write(SEEN, tmp_path)
    text = (tmp_path / document.NAME).read_text(encoding="utf-8")
    for line in (
        "| processor | Abacus, 2 cores |",
        "| a warm loop in torch | 7.2 | 8.5 |",
        "| A peer | did not run: no such module |  |",
        "| share of the bound | 89% |",
        "| 30.0 | 1800 | 30 ms | 45 ms | 60 ms |",
        "| memory of the worker, its judging processes included, after 10,000 images | 186 MB |",
        "| growth between them | +3.3% |",
        "| worklist | 20.0 ms | 31.2 ms | 40.0 ms |",
        "| DICOM objects of 10 MB: the node and DCMTK's storescp | 80 MB/s and 60 MB/s |",
        "| the same, node to storescp, median of the rounds | 1.33 times |",
    ):
        assert line in text.splitlines()
    assert "A CSV of all of them has 24.5 MB and takes 9.8 s." in text
    assert "rest 6.5." in text  # of the thread's 32.5 ms
    charts = sorted(tmp_path.glob("*.svg"))
    assert len(charts) == 2
    for chart in charts:
        assert f"]({chart.name})" in text
        assert ElementTree.parse(chart).getroot().tag.endswith("svg")


def test_it_says_nothing_of_what_was_not_measured() -> None:
    text = document.render({"facts": SEEN["facts"], "memory": SEEN["memory"]})
    assert "186 MB" in text
    assert "worker and its bound" not in text
    assert ".svg" not in text


def test_the_peers_do_the_work_that_the_engine_does(tmp_path: Path) -> None:
    data, about = (SAMPLES / "pneumonia-1.jpeg").read_bytes(), plain.calibration()
    gray = plain.read(data)
    logits, maps, *_ = plain.session().run(None, {"image": plain.network_input(gray, about["size"])[None]})
    expected = Engine().examine(data).finding
    answer = plain.answer(about, float(logits[0, 0]), maps[0])
    assert answer["probability"] == pytest.approx(expected.probability, abs=0.02)
    assert np.allclose(answer["map"], expected.map.grid, atol=0.5)
    plain.write_preview(gray, str(tmp_path))
    assert [path.suffix for path in tmp_path.iterdir()] == [".jpg"]


def test_no_image_is_measured_twice(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    images = Images(paths_of(SAMPLES, limit=2))
    keys = [*images.drop(tmp_path, 3), *images.drop(tmp_path, 2)]
    assert len(set(keys)) == 5
    assert len({(tmp_path / key).read_bytes() for key in keys}) == 5
