"""The model card in machine-readable form: the facts that the page and the written card take theirs from.

After Mitchell et al. 2019, arXiv:1810.03993.
"""

import hashlib
from pathlib import Path

from pydantic import BaseModel, Field

from model import CARD, SHIPPED
from model.evaluate.metrics import Metrics
from model.evaluate.populations import PopulationCounts
from model.serve.engine import Calibration

REFERENCE = SHIPPED.with_suffix(".safetensors")


class Card(BaseModel):
    """What a network is, what it is for, and what was measured of it."""

    name: str
    version: str
    sha256: str = Field(description="of the ONNX file, as in a verdict's `model`")
    reference_sha256: str = Field(description="of the safetensors file")
    parameters: int
    command: str = Field(description="that made it")
    licence: str
    trained_on: str
    intended_use: str
    not_for: str
    limits: list[str]
    calibration: Calibration
    originals: Metrics = Field(description="the fixed fold's images at their original size")
    copies: Metrics = Field(description="all images of the fixed fold's patients, as squashed copies")
    populations: list[PopulationCounts] = Field(
        description="what it says of others, whom it should not judge"
    )


def shipped_card() -> Card:
    """The card of the shipped network."""
    return Card.model_validate_json(CARD.read_bytes())


def make_card(
    parameters: int,
    calibration: Calibration,
    originals: Metrics,
    copies: Metrics,
    populations: list[PopulationCounts],
) -> Card:
    """The shipped network's card, from what was measured."""
    return Card(
        name=calibration.name,
        version=calibration.version,
        sha256=_sha256(SHIPPED),
        reference_sha256=_sha256(REFERENCE),
        parameters=parameters,
        command="cxr train chest_xray --outside adults",
        licence="MIT",
        trained_on=(
            "Chest X-Ray Images (Pneumonia), Kermany, Zhang, Goldbaum 2018, doi 10.17632/rscbjbr9sj.3, "
            "CC BY 4.0: children of one to five years, Guangzhou Women and Children's Medical Center"
        ),
        intended_use="research, teaching, and trying this software",
        not_for="decisions about any person; it is no medical device, and no radiologist checked its answers",
        limits=list(LIMITS),
        calibration=calibration,
        originals=originals,
        copies=copies,
        populations=populations,
    )


LIMITS = (
    "These figures flatter: patients of the same hospital, drawn from the same archive, are easy. On films "
    "of another year the network before this one lost six points of accuracy.",
    "On adults such networks are near chance. Do not trust a confident label on an adult: two measures of "
    "who is unlike the training images are there to prevent it. They learned from the two sources below.",
    "Image size and aspect ratio are hidden from it by squashing, exposure by local contrast; burned-in "
    "letters are discouraged in training.",
    "The labels it learned from came from the archive; some of them are wrong.",
    "The map is the exact sum of evidence, on a coarse grid. It points at large opacities better than at "
    "small ones; it does not outline disease.",
)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
