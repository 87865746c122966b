"""The shipped network, calibrated for one department: `cxr calibrate`.

The network stays as it is. From labelled X-rays of the department come the probability, the two thresholds,
and what is typical there. Needs no torch.
"""

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field
from rich.console import Console
from rich.progress import track

from model.bootstrap import Bootstrap, Metric
from model.calibrate import choose_limits, choose_thresholds, fit_platt
from model.data import Sample, load_samples
from model.decode import decode
from model.engine import SHIPPED, Calibration, Engine, Outputs, interpret, prepare
from model.measure import measure
from model.metrics import Metrics
from model.onnxfile import with_note
from pipeline.errors import CxrError, InputRejected, UsageError
from pipeline.ports import ImageFacts
from pipeline.settings import Settings
from pipeline.verdict import Finding, ModelRef, Warning

LEAST = 50  # images of each class; with fewer the thresholds would hang on one or two of them
_AUC = 0.8  # its lower end; below it no calibration makes the network's word worth having
_PARTS = 5  # of the patients: each is judged by a calibration of the others
_SEED = 3
_NEVER = 1e-4  # P is given to four digits: an error costs no more than this makes it


class SiteCard(BaseModel):
    """What a calibrated network is, beside its file."""

    version: str
    sha256: str = Field(description="of the ONNX file, as in a verdict's `model`")
    network: ModelRef = Field(description="the one that was calibrated; its weights are unchanged")
    command: str = "cxr calibrate"
    calibrated_on: str
    calibration: Calibration
    before: Metrics = Field(description="as the network came")
    after: Metrics = Field(
        description=f"calibrated; each patient by a calibration of the other patients, in {_PARTS} parts"
    )
    gain: Metric = Field(description="in log loss an image, from before to after; above 0 is better")


@dataclass(frozen=True)
class _Seen:
    """What the network makes of one image, before any calibration."""

    sample: Sample
    facts: ImageFacts
    warnings: tuple[Warning, ...]
    outputs: Outputs


def calibrate_site(folder: Path, out: Path, settings: Settings, console: Console) -> SiteCard:
    """Write the calibrated network to `out` and its card beside it.

    CxrError when these images do not show that it would be better than the network as it is.
    """
    engine = Engine(settings.weights, settings.max_pixels)
    seen = _look(folder, engine, settings, console)
    counts = [sum(one.sample.label == label for one in seen) for label in (0, 1)]
    if min(counts) < LEAST:
        raise CxrError(
            f"too few images: {counts[0]} normal ones and {counts[1]} with pneumonia could be judged,"
            f" and {LEAST} of each are needed; add some"
        )
    card = _card(engine, seen)
    if card.before.auc.low < _AUC:
        raise CxrError(
            f"the network cannot tell these images apart (AUC {card.before.auc}), and no calibration mends"
            " that: are they frontal chest X-rays of children, each in its folder?"
        )
    if card.gain.low <= 0:
        raise CxrError(
            f"these {len(seen)} images do not show that a calibration of their own would be better (gain in"
            f" log loss {card.gain}): keep the network as it is, or add images"
        )
    network = (settings.weights or SHIPPED).read_bytes()
    network = with_note(network, "calibration", card.calibration.model_dump_json())
    card = card.model_copy(update={"sha256": hashlib.sha256(network).hexdigest()})
    _write(out, network, card)
    return card


def _card(engine: Engine, seen: Sequence[_Seen]) -> SiteCard:
    """Calibrate on all, and measure each patient by a calibration of the others; no file is known yet."""
    samples, base, parts = [one.sample for one in seen], engine.calibration, _parts(seen)
    fitted = [
        _fit(base, [one for one in seen if parts[one.sample.patient] != part]) for part in range(_PARTS)
    ]
    after = [fitted[parts[sample.patient]] for sample in samples]
    losses = [_loss(base, one) - _loss(own, one) for one, own in zip(seen, after, strict=True)]
    gain = Bootstrap([sample.patient for sample in samples]).mean(losses, np.ones(len(seen), np.bool_))
    assert gain is not None
    made = _fit(base, seen).model_copy(update={"version": f"{base.version}-site"})
    before = measure(samples, [_finding(base, one) for one in seen], model=engine.model)
    return SiteCard(
        version=made.version,
        sha256="",
        network=engine.model,
        calibrated_on=f"{before.normal} normal X-rays and {before.pneumonia} with pneumonia, of"
        f" {before.patients} patients",
        calibration=made,
        before=before,
        after=measure(samples, [_finding(own, one) for one, own in zip(seen, after, strict=True)]),
        gain=gain,
    )


def table(card: SiteCard) -> str:
    """Before and after, for a person's eyes."""
    rows = [
        ("AUC", card.before.auc, card.after.auc),
        ("accuracy at the decision", card.before.at_decision.accuracy, card.after.at_decision.accuracy),
        ("sensitivity", card.before.at_decision.sensitivity, card.after.at_decision.sensitivity),
        ("specificity", card.before.at_decision.specificity, card.after.at_decision.specificity),
        ("calibration error", card.before.ece, card.after.ece),
        ("called uncertain", card.before.uncertain, card.after.uncertain),
        ("right when certain", card.before.right_when_certain, card.after.right_when_certain),
        ("refused", card.before.refused, card.after.refused),
    ]
    return "\n".join(
        [
            f"{card.calibrated_on}; 95 % intervals by bootstrap over patients",
            f"  {'':26} {'before':24} after",
            *(
                f"  {name:26} {before or 'not known'!s:24} {after or 'not known'}"
                for name, before, after in rows
            ),
            f"After: each patient judged by a calibration of the others. Gain in log loss: {card.gain}.",
        ]
    )


def _look(folder: Path, engine: Engine, settings: Settings, console: Console) -> list[_Seen]:
    samples = load_samples(folder, suffixes=None)
    with ThreadPoolExecutor(settings.threads) as pool:
        answers = pool.map(lambda sample: _seen(engine, sample, settings.max_pixels), samples)
        shown = track(
            answers, "judging", len(samples), console=console, transient=True, disable=not console.is_terminal
        )
        return [one for one in shown if one]


def _seen(engine: Engine, sample: Sample, max_pixels: int) -> _Seen | None:
    try:
        gray, facts, warnings = decode(sample.path.read_bytes(), max_pixels)
        pixels, _ = prepare(gray, facts, engine.calibration.size)
    except InputRejected:
        return None
    return _Seen(sample, facts, warnings, engine.outputs(pixels).of(0))


def _parts(seen: Sequence[_Seen]) -> dict[str, int]:
    """The part of each patient, drawn at random."""
    names = sorted({one.sample.patient for one in seen})
    drawn = np.random.default_rng(_SEED).permutation(len(names)) % _PARTS
    return dict(zip(names, drawn.tolist(), strict=True))


def _fit(base: Calibration, seen: Sequence[_Seen]) -> Calibration:
    """Calibrate anew on images; the share of pneumonia among them becomes the prevalence."""
    truth = np.array([one.sample.label for one in seen])
    logits = np.array([float(one.outputs.logits[0]) for one in seen])
    slope, offset = fit_platt(logits, truth)
    changes = {
        "slope": slope,
        "offset": offset,
        "prevalence": round(float(truth.mean()), 3),
        "thresholds": choose_thresholds(1 / (1 + np.exp(-(slope * logits + offset))), truth),
        "typicality": choose_limits(np.array([float(one.outputs.distances) for one in seen])),
    }
    return base.model_copy(update=changes)


def _finding(calibration: Calibration, one: _Seen) -> Finding | None:
    try:
        return interpret(calibration, one.outputs, one.facts, one.warnings)
    except InputRejected:
        return None


def _loss(calibration: Calibration, one: _Seen) -> float:
    p = calibration.probability(float(one.outputs.logits[0]))
    return -math.log(max(p if one.sample.label else 1 - p, _NEVER))


def _write(out: Path, network: bytes, card: SiteCard) -> None:
    try:
        out.write_bytes(network)
        out.with_suffix(".json").write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}); name another --out") from error
