"""Make the histograms that recent X-rays are compared with: those of the validation fold."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from model.data import Origin, Sample, load_origins, load_samples
from model.serve.engine import Engine
from pipeline.intake import row_of
from pipeline.judge import examine
from pipeline.records import Row
from pipeline.statistics.daily import PROPERTIES, values_of
from pipeline.statistics.drift import DriftReference
from pipeline.verdict import Release, Source


def make_reference(data: Path, engine: Engine) -> DriftReference:
    """Judge the validation fold of a data set, and count its properties as the worklist does.

    Width and height are those of the originals, where a manifest gives them.
    """
    samples = [sample for sample in load_samples(data) if sample.fold == "validation"]
    histograms = {one.name: [0] * one.bins for one in PROPERTIES}
    for row in _rows(samples, load_origins(data, samples), engine):
        values = values_of(row)
        for one in PROPERTIES:
            if one.name in values:
                histograms[one.name][one.bin_of(values[one.name])] += 1
    return DriftReference(
        sha256=engine.model.sha256,
        of="the validation fold of the training data, on which the network was calibrated",
        images=len(samples),
        patients=len({sample.patient for sample in samples}),
        histograms=histograms,
    )


def _rows(samples: list[Sample], origins: list[Origin], engine: Engine) -> Iterator[Row]:
    for sample, origin in zip(samples, origins, strict=True):
        data, now = sample.path.read_bytes(), datetime.now(UTC)
        source = Source(bucket="", key="inbox/x", etag="", size=len(data))
        row = row_of(examine(data, source, engine, Release(), now)[0], "", None)
        aspect = origin.width / origin.height if origin.width and origin.height else None
        yield replace(row, aspect=aspect)
