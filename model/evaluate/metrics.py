"""Define the output of `cxr evaluate --json`: the figures of one network on labelled images."""

from typing import Literal

from pydantic import BaseModel, Field

from model.evaluate.bootstrap import Metric
from pipeline.verdict import ModelRef

ECE_BINS = 15  # of the expected calibration error: Guo et al. 2017, arXiv:1706.04599
PREVALENCES = (0.05, 0.20, 0.74)  # of pneumonia: rare, common, and as in the training data
CALLED = ("normal", "uncertain", "pneumonia", "refused")  # the possible answers about an image


class AtThreshold(BaseModel):
    """Hold figures for calling every image with P above one threshold pneumonia, ignoring other labels."""

    threshold: float
    accuracy: Metric
    sensitivity: Metric
    specificity: Metric


class Lower(BaseModel):
    """Describe the threshold below which the label is `normal`, by P alone."""

    threshold: float
    sensitivity: Metric = Field(description="share of pneumonias that are not below it")


class Upper(BaseModel):
    """Describe the threshold above which the label is `pneumonia`, by P alone."""

    threshold: float
    specificity: Metric = Field(description="share of the normal images that are not above it")


class PredictiveValues(BaseModel):
    """Give the predictive values of the confident labels at another prevalence of pneumonia.

    Computed by Bayes' rule from the share of each class that gets the label. The interval combines the less
    favourable ends of both shares, then the more favourable ones, so it is rather too wide.
    """

    prevalence: float
    ppv: Metric | None = Field(description="positive predictive value, of `pneumonia`; null when never given")
    npv: Metric | None = Field(description="negative predictive value, of `normal`; null when never given")


class Group(BaseModel):
    """Hold the figures of the same network on a subset of the images."""

    name: str
    images: int
    patients: int
    right: Metric | None = Field(
        description="share classified correctly at the decision threshold; null when none was judged"
    )
    auc: Metric | None = Field(description="null when the group has only one class")
    uncertain: Metric | None
    refused: Metric


class Metrics(BaseModel):
    """Hold all figures and the numbers of images they come from.

    Refused images count only in `images`, `refused` and `called`. AUC, accuracy and all other figures are
    about judged images, so read them together with `refused`.
    """

    images: int = Field(description="all labelled images, the refused ones included")
    patients: int
    normal: int = Field(description="images whose label in the data is normal")
    pneumonia: int = Field(description="images whose label in the data is pneumonia")
    auc: Metric = Field(description="area under the ROC curve of P, of judged images")
    average_precision: Metric = Field(description="of judged images; depends on the prevalence of pneumonia")
    brier: Metric = Field(description="mean squared error of P, of judged images")
    ece: Metric = Field(
        description=f"expected calibration error in {ECE_BINS} equal bins of P, of judged images"
    )
    at_decision: AtThreshold = Field(description="at the midpoint of the two thresholds, of judged images")
    at_half: AtThreshold = Field(description="at P = 0.5, of judged images")
    not_called_normal: Lower = Field(description="of judged images")
    not_called_pneumonia: Upper = Field(description="of judged images")
    uncertain: Metric = Field(
        description="share labelled `uncertain`, atypical ones included, of judged images"
    )
    refused: Metric = Field(description="share of all images that the engine refused to judge")
    right_when_certain: Metric | None = Field(
        description="share of correct labels among `normal` and `pneumonia`; null when there are none"
    )
    predictive_values: list[PredictiveValues]
    called: dict[Literal["normal", "pneumonia"], dict[str, int]] = Field(
        description="number of images by the label in the data, then by the answer"
    )
    groups: list[Group]
    model: ModelRef | None = None
