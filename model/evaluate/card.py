"""Build the model card in machine-readable form; the page and the written card take their facts from it.

After Mitchell et al. 2019, arXiv:1810.03993.
"""

import hashlib
from pathlib import Path

from pydantic import BaseModel, Field

from model import CARD, SHIPPED
from model.evaluate.metrics import Metrics
from model.evaluate.populations import PopulationCounts
from model.serve.engine import Calibration
from pipeline.statistics.drift import DriftReference

REFERENCE = SHIPPED.with_suffix(".safetensors")


class Card(BaseModel):
    """Describe a network: its identity, its intended use, and its measured performance."""

    name: str
    version: str
    sha256: str = Field(description="SHA-256 of the ONNX file, as in a verdict's `model`")
    reference_sha256: str = Field(description="SHA-256 of the safetensors file")
    parameters: int
    command: str = Field(description="the command that made the network")
    licence: str
    trained_on: str
    intended_use: str
    not_for: str
    limits: list[str]
    calibration: Calibration
    originals: Metrics = Field(description="measured on the fixed fold's images at their original size")
    copies: Metrics = Field(description="measured on all images of the same patients, as squashed copies")
    populations: list[PopulationCounts] = Field(
        description="answers about populations that it should not judge"
    )
    reference: DriftReference | None = Field(None, description="with which recent X-rays are compared")


def shipped_card() -> Card:
    """Load the card of the shipped network."""
    return Card.model_validate_json(CARD.read_bytes())


def make_card(
    parameters: int,
    calibration: Calibration,
    originals: Metrics,
    copies: Metrics,
    populations: list[PopulationCounts],
    reference: DriftReference,
) -> Card:
    """Build the shipped network's card from measurements."""
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
            "CC BY 4.0: children aged one to five years, Guangzhou Women and Children's Medical Center"
        ),
        intended_use="research, teaching, and trying out this software",
        not_for="decisions about any person; not a medical device; no radiologist has checked its answers",
        limits=list(LIMITS),
        calibration=calibration,
        originals=originals,
        copies=copies,
        populations=populations,
        reference=reference,
    )


LIMITS = (
    "These figures are optimistic: the test patients come from the same hospital and archive as the training "
    "patients. On films from another year, the previous network lost six points of accuracy.",
    "On adults such networks do little better than chance. Do not trust a confident label on an adult. Two "
    "checks for images unlike the training images should prevent one; they were fitted on the sources below.",
    "Squashing hides image size and aspect ratio from the network, and local contrast hides exposure. "
    "Training discourages it from using burned-in letters.",
    "The training labels come from the archive; some of them are wrong.",
    "The map shows how the evidence adds up to the answer, exactly but on a coarse grid. It points at large "
    "opacities better than at small ones, and it does not outline disease.",
)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
