"""Judge images with ONNX Runtime, without torch.

`model.reference` is the same in torch; a test holds them together.
"""

import hashlib
import io
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _errors
from PIL import Image
from pydantic import BaseModel, ConfigDict

from model import SHIPPED
from model.serve.borders import Box, content_box
from model.serve.chest import outside_share
from model.serve.files.decode import decode
from model.serve.preprocess import Array, as_copy, network_input
from pipeline.errors import InputRejected, UsageError
from pipeline.records import Examination, ImageFacts
from pipeline.verdict import (
    DOUBTS,
    ActivationMap,
    Finding,
    ModelRef,
    Population,
    Thresholds,
    Typicality,
    Warning,
)

if TYPE_CHECKING:  # the processes that judge need no settings
    from model.serve.messages import ChildOptions
    from pipeline.settings import Settings

_DIGITS = 4  # of P in a verdict
_STEP = 10.0**-_DIGITS  # from 0 and from 1, at least: no network is certain
_PREVIEW_SIDE = 1280  # pixels, at most
_PREVIEW_QUALITY, _FULL_QUALITY = 85, 95
_FULL_SIDE = 65_500  # pixels, at most: the limit of JPEG
_MOST = 0.5  # of the evidence for pneumonia
_BLANK = 2.0  # grey levels of deviation, out of 255; the flattest training image has 19
_NOT_ONNX = (_errors.Fail, _errors.InvalidArgument, _errors.InvalidGraph, _errors.InvalidProtobuf)


class Limits(BaseModel):
    """Limit the distance to the training images: `atypical` above the first, refused above the second."""

    model_config = ConfigDict(frozen=True)

    atypical_above: float
    refused_above: float


class Calibration(BaseModel):
    """Turn the network's output into a verdict; it travels in the ONNX file's metadata."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: str
    size: int  # pixels a side of the input
    slope: float  # P(pneumonia) = sigmoid(slope * logit + offset): Platt 1999
    offset: float
    prevalence: float  # the share of pneumonia among the images it was fitted on
    thresholds: Thresholds
    typicality: Limits
    outside_above: float  # the logit of being of another population, beyond which the label is `uncertain`

    def probability(self, logit: float) -> float:
        """Return the calibrated P(pneumonia)."""
        return _sigmoid(self.slope * logit + self.offset)

    def at(self, prevalence: float) -> "Calibration":
        """Return it for another share of ill patients: P moves with the prior odds, by Bayes' rule.

        So do the thresholds: which images get which label stays, and with it sensitivity and specificity.
        Saerens et al. 2002, doi 10.1162/089976602753284446.
        """
        shift = _log_odds(prevalence) - _log_odds(self.prevalence)
        thresholds = {name: _moved(value, shift) for name, value in self.thresholds}
        changes = {"prevalence": prevalence, "offset": self.offset + shift}
        return self.model_copy(update={**changes, "thresholds": Thresholds(**thresholds)})


class Outputs(NamedTuple):
    """Hold the network's raw outputs for N images."""

    logits: Array  # [N, 2]: pneumonia; viral (against bacterial), which training uses and nobody is shown
    maps: Array  # [N, h, w]: the mean of each is the pneumonia logit
    distances: Array  # [N]: how unlike the training images
    outside: Array  # [N]: the logit of being of another population

    def of(self, index: int) -> "Outputs":
        """Return the outputs for one image, without the first axis."""
        return Outputs(*(part[index] for part in self))


class Engine:
    """Run the shipped network, or the network of another ONNX file that `cxr export` wrote."""

    def __init__(
        self,
        weights: Path | None = None,
        max_pixels: int = 50_000_000,
        prevalence: float | None = None,
        keep_uid: bool = False,
        burned_in_previews: bool = False,
        full_previews: bool = False,
    ) -> None:
        """Load the network; UsageError when the file is none. See `pipeline.settings` for the others.

        With `full_previews`, a preview has the size of its image. The finding may differ a little then,
        because JPEGs are not shrunk while they are decoded.
        """
        path = weights or SHIPPED
        try:
            content = path.read_bytes()
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1  # images run side by side, each on one core
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            metadata = self._session.get_modelmeta().custom_metadata_map
            shipped = Calibration.model_validate(json.loads(metadata["calibration"]))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except (KeyError, ValueError, *_NOT_ONNX) as error:
            advice = "name an ONNX file that this release's `cxr train`, `export` or `calibrate` wrote"
            raise UsageError(f"{path} is no network of this release: {advice}") from error
        self.calibration = shipped.at(prevalence) if prevalence else shipped
        self._max_pixels, self._keep_uid, self._burned_in_previews = max_pixels, keep_uid, burned_in_previews
        self._full_previews = full_previews
        self.model = ModelRef(
            name=self.calibration.name,
            version=self.calibration.version,
            sha256=hashlib.sha256(content).hexdigest(),
            engine=f"onnxruntime {onnxruntime.__version__}",
        )

    @classmethod
    def of(cls, settings: "Settings | ChildOptions") -> "Engine":
        """Build the engine that the settings ask for."""
        names = ("weights", "max_pixels", "prevalence", "keep_uid", "burned_in_previews", "full_previews")
        return cls(**{name: getattr(settings, name) for name in names if hasattr(settings, name)})

    def close(self) -> None:
        """Do nothing: what is at work in this process cannot be broken off; see `model.serve.guarded`."""

    def examine(self, data: bytes) -> Examination:
        """Judge the bytes of one image file; InputRejected when they cannot be judged."""
        clock = time.perf_counter()
        sides = {"least_side": _FULL_SIDE} if self._full_previews else {}
        gray, facts, warnings = decode(data, self._max_pixels, self._keep_uid, **sides)
        pixels, box, facts = prepare(gray, facts, self.calibration.size)
        shown = self._burned_in_previews or "burned_in_text" not in warnings
        preview = encode_preview(gray, self._full_previews) if shown else None
        decoded = time.perf_counter()
        outputs = self.outputs(pixels).of(0)
        finding = interpret(self.calibration, outputs, facts, warnings, _shares(box, gray.size))
        inferred = time.perf_counter()
        timing = {
            "decode": round((decoded - clock) * 1000, 2),
            "infer": round((inferred - decoded) * 1000, 2),
        }
        said = (*doubts_of(finding), *warnings)
        if finding.label == "pneumonia" and outside_share(gray, box, outputs.maps) > _MOST:
            said = (*said, "evidence_outside")
        return Examination(facts, finding, preview, said, timing)

    def outputs(self, pixels: Array) -> Outputs:
        """Return the raw outputs for images [N, 1, size, size]."""
        return Outputs(*self._session.run(None, {"image": pixels}))


class Prepared(NamedTuple):
    """Hold the network's input, [1, 1, size, size], the part of the image that it shows, and the facts."""

    pixels: Array
    box: Box
    facts: ImageFacts  # with the greys


def prepare(gray: Image.Image, facts: ImageFacts, size: int) -> Prepared:
    """Return the network's input for an image; wide borders are cropped.

    Raises InputRejected for a blank image.
    """
    box = content_box(gray)
    is_whole = box == (0, 0, *gray.size)
    small = as_copy(gray if is_whole else gray.crop(box))
    greys = np.asarray(small.resize((64, 64), Image.Resampling.BOX), np.float32)
    brightness, contrast = float(greys.mean()), float(greys.std())
    facts = replace(facts, brightness=round(brightness, 1), contrast=round(contrast, 1))
    if contrast < _BLANK:
        message = "The image is blank. Check the export and drop the chest X-ray again."
        raise InputRejected("not_a_chest_xray", message, facts)
    return Prepared(network_input(small, size), box, facts)


def interpret(
    calibration: Calibration,
    outputs: Outputs,
    facts: ImageFacts,
    warnings: tuple[Warning, ...] = (),
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> Finding:
    """Turn the network's outputs for one image, see `Outputs.of`, into a finding.

    `box` is the part of the image that the network saw, as shares of its width and height.
    Raises InputRejected for an image too unlike the training images. One that is rather unlike them, by its
    looks or by what its file says, never gets a confident label.
    """
    typicality = Typicality(score=round(float(outputs.distances), 1), **calibration.typicality.model_dump())
    if typicality.score > typicality.refused_above:
        message = (
            "This does not look like a chest X-ray. Drop a frontal one, whole and with nothing drawn on it."
        )
        raise InputRejected("not_a_chest_xray", message, facts)
    population = Population(
        other=round(_sigmoid(float(outputs.outside)), _DIGITS),
        doubted_above=round(_sigmoid(calibration.outside_above), _DIGITS),
    )
    probability = calibration.probability(float(outputs.logits[0]))  # not rounded yet: the label is of it
    grid = [[round(float(cell), 3) for cell in line] for line in outputs.maps]
    doubtful = (
        typicality.is_atypical or population.is_doubted or any(warning in DOUBTS for warning in warnings)
    )
    return Finding(
        label="uncertain" if doubtful else calibration.thresholds.label(probability),
        probability=min(max(round(probability, _DIGITS), _STEP), 1 - _STEP),
        prevalence=calibration.prevalence,
        thresholds=calibration.thresholds,
        typicality=typicality,
        population=population,
        map=ActivationMap(grid=grid, box=box),
    )


def doubts_of(finding: Finding) -> tuple[Warning, ...]:
    """Return the warnings that the network itself gives."""
    doubts: list[Warning] = []
    if finding.typicality and finding.typicality.is_atypical:
        doubts.append("atypical")
    if finding.population and finding.population.is_doubted:
        doubts.append("other_population")
    return tuple(doubts)


def _shares(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    (left, top, right, bottom), (width, height) = box, size
    return round(left / width, 4), round(top / height, 4), round(right / width, 4), round(bottom / height, 4)


def encode_preview(gray: Image.Image, full: bool = False) -> bytes:
    """Encode a JPEG of at most 1280 pixels a side, or with `full` of every pixel: pixels alone, no metadata.

    A larger image is shrunk by a whole number, which leaves 640 pixels or more, at a fraction of the cost
    of any other size.
    """
    side = _FULL_SIDE if full else _PREVIEW_SIDE
    small = gray.reduce(math.ceil(max(gray.size) / side))
    plain, buffer = Image.new("L", small.size), io.BytesIO()
    plain.paste(small)
    plain.save(buffer, "JPEG", quality=_FULL_QUALITY if full else _PREVIEW_QUALITY)
    return buffer.getvalue()


def _moved(probability: float, shift: float) -> float:
    return _sigmoid(_log_odds(probability) + shift)


def _log_odds(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(value, -60, 60))))
