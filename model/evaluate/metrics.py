"""What `cxr evaluate --json` says: the figures of one network on labelled images."""

from typing import Literal

from pydantic import BaseModel, Field

from model.evaluate.bootstrap import Metric
from pipeline.verdict import ModelRef

ECE_BINS = 15  # of the expected calibration error: Guo et al. 2017, arXiv:1706.04599
PREVALENCES = (0.05, 0.20, 0.74)  # of pneumonia: where it is rare, where it is common, in the training data
CALLED = ("normal", "uncertain", "pneumonia", "refused")  # what can be said of an image


class AtThreshold(BaseModel):
    """Pneumonia is what has P above one threshold; typicality and uncertainty are not asked."""

    threshold: float
    accuracy: Metric
    sensitivity: Metric
    specificity: Metric


class Lower(BaseModel):
    """The threshold under which the label is `normal`, by P alone."""

    threshold: float
    sensitivity: Metric = Field(description="share of the pneumonias that are not under it")


class Upper(BaseModel):
    """The threshold above which the label is `pneumonia`, by P alone."""

    threshold: float
    specificity: Metric = Field(description="share of the normal images that are not above it")


class PredictiveValues(BaseModel):
    """What a confident label is worth where another share of the X-rays shows pneumonia.

    Computed after Bayes from the shares of either class that are called so; the interval takes the less
    favourable end of both of theirs, then the more favourable: it is rather too wide.
    """

    prevalence: float
    ppv: Metric | None = Field(description="of the label `pneumonia`; null where it was never given")
    npv: Metric | None = Field(description="of the label `normal`; null where it was never given")


class Group(BaseModel):
    """The same network on a part of the images."""

    name: str
    images: int
    patients: int
    right: Metric | None = Field(
        description="share that P puts right at the decision; null where none is judged"
    )
    auc: Metric | None = Field(description="null where the group has one class alone")
    uncertain: Metric | None
    refused: Metric


class Metrics(BaseModel):
    """What was measured, on how many.

    Refused images count in `images`, `refused` and `called` alone: AUC, accuracy and all other figures are
    of the images that were judged. Read them together with `refused`.
    """

    images: int = Field(description="all labelled images, the refused ones included")
    patients: int
    normal: int = Field(description="images whose label in the data is normal")
    pneumonia: int = Field(description="images whose label in the data is pneumonia")
    auc: Metric = Field(description="area under the ROC curve of P, of judged images")
    average_precision: Metric = Field(description="of judged images; it depends on their share of pneumonia")
    brier: Metric = Field(description="mean squared error of P, of judged images")
    ece: Metric = Field(
        description=f"expected calibration error in {ECE_BINS} equal bins of P, of judged images"
    )
    at_decision: AtThreshold = Field(description="at the middle of the two thresholds, of judged images")
    at_half: AtThreshold = Field(description="at P = 0.5, of judged images")
    not_called_normal: Lower = Field(description="of judged images")
    not_called_pneumonia: Upper = Field(description="of judged images")
    uncertain: Metric = Field(
        description="share labelled `uncertain`, atypical ones included, of judged images"
    )
    refused: Metric = Field(description="share of all images that the engine refused to judge")
    right_when_certain: Metric | None = Field(
        description="share of right labels among `normal` and `pneumonia`; null where there are none"
    )
    predictive_values: list[PredictiveValues]
    called: dict[Literal["normal", "pneumonia"], dict[str, int]] = Field(
        description="images by the label in the data, then by what was said of them"
    )
    groups: list[Group]
    model: ModelRef | None = None
