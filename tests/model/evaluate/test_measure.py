"""The figures of an evaluation, compared with results by hand and by scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from model.data import Origin, Sample
from model.evaluate.bootstrap import Bootstrap, Metric
from model.evaluate.measure import auc, calibration_error, measure, precision, predictive_value
from model.evaluate.metrics import Metrics
from pipeline.errors import UsageError
from pipeline.verdict import ActivationMap, Finding, Label, Thresholds

THRESHOLDS = Thresholds(normal_below=0.2, pneumonia_above=0.8)
# label in the data, viral, P, what was said
CASES: list[tuple[int, int, float, Label | None]] = [
    (0, -1, 0.05, "normal"),
    (0, -1, 0.10, "normal"),
    (0, -1, 0.15, "uncertain"),  # atypical
    (0, -1, 0.52, "uncertain"),
    (0, -1, 0.90, "pneumonia"),
    (1, 0, 0.15, "normal"),
    (1, 1, 0.45, "uncertain"),
    (1, 0, 0.85, "pneumonia"),
    (1, 1, 0.95, "pneumonia"),
    (1, 1, 0.00, None),  # refused
]


def sample(index: int, label: int, viral: int, patient: str | None = None) -> Sample:
    return Sample(Path(f"{index}.png"), label, viral, patient or f"p{index}", "report")


def finding(probability: float, label: Label | None) -> Finding | None:
    return label and Finding(
        label=label,
        probability=probability,
        prevalence=0.5,
        thresholds=THRESHOLDS,
        map=ActivationMap(grid=[[0.0]], box=(0, 0, 1, 1)),
    )


SAMPLES = [sample(index, case[0], case[1]) for index, case in enumerate(CASES)]
FINDINGS = [finding(case[2], case[3]) for case in CASES]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return measure(SAMPLES, FINDINGS)


def test_the_figures_are_those_of_pencil_and_paper(metrics: Metrics) -> None:
    assert (metrics.images, metrics.patients, metrics.normal, metrics.pneumonia) == (10, 10, 5, 5)
    assert metrics.at_decision.threshold == 0.5
    for place in (metrics.at_decision, metrics.at_half):
        assert place.accuracy.value == pytest.approx(5 / 9, abs=1e-4)
        assert place.sensitivity.value == 2 / 4
        assert place.specificity.value == 3 / 5
    assert metrics.not_called_normal.threshold == 0.2
    assert metrics.not_called_normal.sensitivity.value == 3 / 4
    assert metrics.not_called_pneumonia.specificity.value == 4 / 5
    assert metrics.refused.value == 1 / 10
    assert metrics.uncertain.value == pytest.approx(3 / 9, abs=1e-4)
    assert metrics.right_when_certain is not None
    assert metrics.right_when_certain.value == pytest.approx(4 / 6, abs=1e-4)
    assert metrics.called == {
        "normal": {"normal": 2, "uncertain": 2, "pneumonia": 1, "refused": 0},
        "pneumonia": {"normal": 1, "uncertain": 1, "pneumonia": 2, "refused": 1},
    }


def test_the_figures_are_those_of_scikit_learn(metrics: Metrics) -> None:
    truth, probability = np.array([(case[0], case[2]) for case in CASES if case[3]]).T
    assert metrics.auc.value == pytest.approx(roc_auc_score(truth, probability), abs=1e-4)
    assert metrics.brier.value == pytest.approx(brier_score_loss(truth, probability), abs=1e-4)
    expected = average_precision_score(truth, probability)
    assert metrics.average_precision.value == pytest.approx(expected, abs=1e-4)
    assert metrics.auc.low < metrics.auc.value < metrics.auc.high


def test_a_draw_counts_an_image_as_often_as_its_patient_was_drawn() -> None:
    random = np.random.default_rng(3)
    truth, score = random.integers(0, 2, 200), random.random(200)
    weights = random.integers(0, 4, 200).astype(np.float32)
    often = np.repeat(np.arange(200), weights.astype(int))
    assert auc(truth, score, weights) == pytest.approx(roc_auc_score(truth[often], score[often]))
    assert precision(truth, score, weights) == pytest.approx(
        average_precision_score(truth[often], score[often])
    )
    repeated = calibration_error(truth[often], score[often])
    assert calibration_error(truth, score, weights) == pytest.approx(repeated, abs=1e-6)
    assert np.isnan(auc(truth, score, np.where(truth == 1, weights, 0).astype(np.float32)))


def test_calibration_error_by_hand() -> None:
    truth, probability = np.array([0, 1, 1, 1]), np.array([0.1, 0.1, 0.9, 1.0])
    # two bins of 0.1 (share 1/2), and two of one image each
    assert calibration_error(truth, probability) == pytest.approx(0.5 * 0.4 + 0.25 * 0.1 + 0)


def test_images_of_one_patient_are_no_independent_evidence() -> None:
    hits = np.repeat(np.tile([True, False], 5), 10)
    everyone = np.ones(100, bool)
    alone = Bootstrap([f"p{index}" for index in range(100)]).share(hits, everyone)
    together = Bootstrap([f"p{index // 10}" for index in range(100)]).share(hits, everyone)
    assert alone is not None
    assert together is not None
    assert (alone.value, together.value) == (0.5, 0.5)
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * 0.05, abs=0.02)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_no_hit_at_all_is_no_certainty() -> None:
    patients = [f"p{index // 2}" for index in range(40)]  # 20 patients
    none = Bootstrap(patients).share(np.zeros(40, bool), np.ones(40, bool))
    every = Bootstrap(patients).share(np.ones(40, bool), np.ones(40, bool))
    assert none == Metric(value=0, low=0, high=0.1684)  # Clopper and Pearson, 0 of 20
    assert every == Metric(value=1, low=0.8316, high=1)
    assert Bootstrap(patients).share(np.zeros(40, bool), np.zeros(40, bool)) is None


def test_the_same_images_give_the_same_intervals(metrics: Metrics) -> None:
    assert measure(SAMPLES, FINDINGS) == metrics


def test_predictive_values_after_bayes(metrics: Metrics) -> None:
    found, alarmed = Metric(value=0.9, low=0.8, high=1.0), Metric(value=0.1, low=0.0, high=0.2)
    value = predictive_value(found, alarmed, 0.05)
    assert value is not None
    assert value.value == pytest.approx(0.9 * 0.05 / (0.9 * 0.05 + 0.1 * 0.95), abs=1e-4)
    assert value.low == pytest.approx(0.8 * 0.05 / (0.8 * 0.05 + 0.2 * 0.95), abs=1e-4)
    assert value.high == 1
    assert [row.prevalence for row in metrics.predictive_values] == [0.05, 0.2, 0.74]
    ppv, npv = metrics.predictive_values[1].ppv, metrics.predictive_values[1].npv
    assert ppv is not None
    assert npv is not None
    assert ppv.value == pytest.approx(0.2 * 2 / 4 / (0.2 * 2 / 4 + 0.8 * 1 / 5), abs=1e-4)
    assert npv.value == pytest.approx(0.8 * 2 / 5 / (0.8 * 2 / 5 + 0.2 * 1 / 4), abs=1e-4)


def test_what_cannot_be_known_is_null() -> None:
    samples = [sample(index, index % 2, -1) for index in range(6)]
    measured = measure(samples, [finding(0.5, "uncertain") for _ in samples])
    assert measured.right_when_certain is None
    assert all(row.ppv is None and row.npv is None for row in measured.predictive_values)
    assert measured.groups == []
    with pytest.raises(UsageError, match="too few"):
        measure(samples, [finding(0.5, "uncertain") if sample.label else None for sample in samples])


def test_groups_are_of_subtype_colour_and_size() -> None:
    origins = [Origin(100 + index, 100, index == 8) for index in range(9)] + [Origin(None, None, False)]
    groups = {group.name: group for group in measure(SAMPLES, FINDINGS, origins).groups}
    assert {name: group.images for name, group in groups.items()} == {
        "bacterial": 2,
        "viral": 3,
        "files in colour": 1,
        "smaller half of the originals": 4,
        "larger half of the originals": 5,
    }
    viral = groups["viral"]
    assert viral.right is not None
    assert viral.right.value == 1 / 2
    assert viral.refused.value == pytest.approx(1 / 3, abs=1e-4)
    assert viral.auc is None
    larger = groups["larger half of the originals"]
    assert larger.auc is not None
    assert larger.auc.value == 1 / 4  # normal 0.9 against 0.15, 0.45, 0.85 and 0.95


def test_the_schema_says_what_becomes_of_refused_images() -> None:
    schema = Metrics.model_json_schema()
    assert "Refused images count only in" in schema["description"]
    assert "judged" in schema["properties"]["auc"]["description"]
