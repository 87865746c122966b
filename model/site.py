"""The shipped network, calibrated for one department: `cxr calibrate`.

The network stays as it is. From labelled X-rays of the department come the probability, the two thresholds,
and what is typical there. Needs no torch.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from model import SHIPPED
from model.calibrate import choose_limits, choose_thresholds, fit_platt
from model.data import CLASSES, Sample, load_samples
from model.evaluate.bootstrap import METHOD, Bootstrap, Metric
from model.evaluate.folder import side_by_side
from model.evaluate.measure import measure
from model.evaluate.metrics import Metrics
from model.onnxfile import with_note
from model.serve.engine import Calibration, Engine, Limits, Outputs, interpret, prepare
from model.serve.files.decode import decode
from pipeline.errors import CxrError, InputRejected, UsageError
from pipeline.records import ImageFacts
from pipeline.settings import Settings
from pipeline.verdict import Finding, ModelRef, doubt_of

LEAST, _PATIENTS = 100, 20  # images of each class, and whose: the thresholds hang on the most unusual of them
_AUC = 0.8  # its lower end; below it no calibration makes the network's word worth having
_PARTS = 5  # of the patients: each is judged by a calibration of the others
_SEED = 3
# Times the network's own limit of typicality, at most. A wider limit lets more adults through: with heads
# that had seen one hospital's adults, 1.1 raised confident labels on the other's from 1.2 to 3.2 % in one
# direction, from 3.3 to 6.6 % in the other (model/README.md).
_WIDEST = 1.1
_NEVER = 1e-4  # P is given to four digits: an error costs no more than this makes it


class SiteCard(BaseModel):
    """Describe a calibrated network; the card lies beside its file."""

    version: str
    sha256: str = Field(description="of the ONNX file, as in a verdict's `model`")
    network: ModelRef = Field(description="the one that was calibrated; its weights are unchanged")
    command: str = "cxr calibrate"
    calibrated_on: str
    calibration: Calibration
    typicality_before: float = Field(
        description="the network's own limit of the distance to its training images"
    )
    before: Metrics = Field(description="as the network came")
    after: Metrics = Field(
        description=f"calibrated; each patient by a calibration of the other patients, in {_PARTS} parts"
    )
    gain: Metric = Field(description="in log loss an image, from before to after; above 0 is better")


@dataclass(frozen=True)
class _Seen:
    """Hold the raw outputs for one image, before any calibration."""

    sample: Sample
    facts: ImageFacts
    outputs: Outputs


def calibrate_site(folder: Path, out: Path, settings: Settings) -> SiteCard:
    """Write the calibrated network to `out` and its card beside it.

    CxrError when these images do not show that it would be better than the network as it is.
    """
    engine = Engine(settings.weights, settings.max_pixels)
    looked = _look(folder, engine, settings)
    seen = [one for one in looked if isinstance(one, _Seen)]
    for name, label in CLASSES.items():
        own = [one.sample.patient for one in seen if one.sample.label == label]
        if len(own) < LEAST or len(set(own)) < _PATIENTS:
            raise CxrError(
                f"too few images: of {name}/ the network judges {len(own)}, of {len(set(own))} patients;"
                f" {LEAST} of {_PATIENTS} patients are needed. A manifest.csv with the columns `file` and"
                " `patient_key` says whose each is"
            )
    made = _fit(engine.calibration, seen)
    made = made.model_copy(update={"version": f"{made.version}-site"})
    network = (settings.weights or SHIPPED).read_bytes()
    network = with_note(network, "calibration", made.model_dump_json())
    card = _card(engine, looked, made, network)
    if min(card.before.auc.low, card.after.auc.low) < _AUC:
        raise CxrError(
            f"the network cannot tell these images apart (AUC {card.before.auc}), and no calibration mends"
            " that: are they frontal chest X-rays of children, each in its folder?"
        )
    if card.gain.low <= 0:
        raise CxrError(
            f"these {len(seen)} images do not show that a calibration of their own would be better (gain in"
            f" log loss {card.gain}): keep the network as it is, or add images"
        )
    _write(out, network, card)
    return card


def _card(engine: Engine, looked: Sequence["_Seen | Sample"], made: Calibration, network: bytes) -> SiteCard:
    """Measure before and after; after, each patient is judged by a calibration of the others."""
    base, seen = engine.calibration, [one for one in looked if isinstance(one, _Seen)]
    samples = [one.sample if isinstance(one, _Seen) else one for one in looked]
    parts = _parts(seen)
    fitted = [
        _fit(base, [one for one in seen if parts[one.sample.patient] != part]) for part in range(_PARTS)
    ]
    own = {one.sample: fitted[parts[one.sample.patient]] for one in seen}
    losses = [_loss(base, one) - _loss(own[one.sample], one) for one in seen]
    patients = [one.sample.patient for one in seen]
    gain = Bootstrap(patients).mean(losses, np.ones(len(seen), np.bool_))
    assert gain is not None
    before = [_finding(base, one) if isinstance(one, _Seen) else None for one in looked]
    after = [_finding(own[one.sample], one) if isinstance(one, _Seen) else None for one in looked]
    counts = [sum(one.sample.label == label for one in seen) for label in (0, 1)]
    return SiteCard(
        version=made.version,
        sha256=hashlib.sha256(network).hexdigest(),
        network=engine.model,
        calibrated_on=f"{counts[0]} normal X-rays and {counts[1]} with pneumonia, of {len(set(patients))}"
        " patients",
        calibration=made,
        typicality_before=base.typicality.atypical_above,
        before=measure(samples, before, model=engine.model),
        after=measure(samples, after),
        gain=gain,
    )


def table(card: SiteCard) -> str:
    """Build a table of the figures before and after."""
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
            f"{card.calibrated_on}; 95 % intervals {METHOD}",
            f"  {'':26} {'before':24} after",
            *(
                f"  {name:26} {before or 'not known'!s:24} {after or 'not known'}"
                for name, before, after in rows
            ),
            f"After: each patient judged by a calibration of the others. Gain in log loss: {card.gain}.",
            *_warning(card),
        ]
    )


def _warning(card: SiteCard) -> list[str]:
    after = card.calibration.typicality.atypical_above
    if after <= card.typicality_before:
        return []
    return [
        f"The limit of typicality rises from {card.typicality_before:.0f} to {after:.0f}: fewer of your"
        " X-rays are doubted, and fewer X-rays of adults, too. Give it children's X-rays only."
    ]


def _look(folder: Path, engine: Engine, settings: Settings) -> list["_Seen | Sample"]:
    """Return what the network makes of each image, or the mere sample where it would not decide: where it
    refuses, or where the file says that it should.
    """
    samples = load_samples(folder, suffixes=None)
    return side_by_side(lambda sample: _seen(engine, sample, settings) or sample, samples, settings.threads)


def _seen(engine: Engine, sample: Sample, settings: Settings) -> _Seen | None:
    try:
        if sample.path.stat().st_size > settings.max_bytes:
            return None
        gray, facts, warnings = decode(sample.path.read_bytes(), settings.max_pixels)
        pixels, _, facts = prepare(gray, facts, engine.calibration.size)
    except InputRejected:
        return None
    outputs = engine.outputs(pixels).of(0)
    if doubt_of(warnings) or outputs.distances > engine.calibration.typicality.refused_above:
        return None
    return _Seen(sample, facts, outputs)


def _parts(seen: Sequence[_Seen]) -> dict[str, int]:
    """Draw a part at random for each patient."""
    names = sorted({one.sample.patient for one in seen})
    drawn = np.random.default_rng(_SEED).permutation(len(names)) % _PARTS
    return dict(zip(names, drawn.tolist(), strict=True))


def _fit(base: Calibration, seen: Sequence[_Seen]) -> Calibration:
    """Calibrate anew on images; the share of pneumonia among them becomes the prevalence.

    The limits of refusal and of the other population stay; that of typicality rises by a tenth at most.
    """
    truth = np.array([one.sample.label for one in seen])
    logits = np.array([float(one.outputs.logits[0]) for one in seen])
    distances = np.array([float(one.outputs.distances) for one in seen])
    slope, offset = fit_platt(logits, truth)
    limit = base.typicality.atypical_above
    changes = {
        "slope": round(slope, 4),
        "offset": round(offset, 4),
        "prevalence": round(float(truth.mean()), 3),
        "thresholds": choose_thresholds(1 / (1 + np.exp(-(slope * logits + offset))), truth),
        "typicality": Limits(
            atypical_above=round(min(choose_limits(distances).atypical_above, _WIDEST * limit), 1),
            refused_above=base.typicality.refused_above,
        ),
    }
    return base.model_copy(update=changes)


def _finding(calibration: Calibration, one: _Seen) -> Finding | None:
    try:
        return interpret(calibration, one.outputs, one.facts)
    except InputRejected:
        return None


def _loss(calibration: Calibration, one: _Seen) -> float:
    p = calibration.probability(float(one.outputs.logits[0]))
    return -math.log(max(p if one.sample.label else 1 - p, _NEVER))


def _write(out: Path, network: bytes, card: SiteCard) -> None:
    """Write both whole, or neither."""
    files = {out: network, out.with_suffix(".json"): f"{card.model_dump_json(indent=1)}\n".encode()}
    try:
        for path, content in files.items():
            path.with_name(f".{path.name}.part").write_bytes(content)
        for path in files:
            path.with_name(f".{path.name}.part").replace(path)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}); name another --out") from error
