"""What a DICOM file says of patient and picture, and what becomes of it."""

from typing import get_args

import numpy as np
import pytest
from pydicom.dataset import Dataset

from model.decode import decode
from model.engine import Engine, interpret
from model.radiograph import Tags
from pipeline.errors import InputRejected
from pipeline.ports import ImageFacts
from pipeline.verdict import DOUBTS, Warning
from tests import dicoms, pictures
from tests.dicoms import dicom

LIMIT = 2_000_000  # pixels


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize(
    "part", ["", "CHEST", "THORAX", "CHEST HEAD", "ABDOMEN", "TSPINE", "RIB", "HANDLE", "?"]
)
def test_a_body_part_that_may_be_a_chest_is_taken(part: str) -> None:
    assert Tags(body_part=part).refusal is None


CODE = Dataset()
CODE.CodeMeaning = "Left lateral"
AP_CODE = Dataset()
AP_CODE.CodeMeaning = "antero-posterior"
TOLD: list[tuple[dict[str, object], tuple[str, ...]]] = [
    ({}, ()),
    *[
        ({"PatientAge": age}, ("age_outside_training",))
        for age in ("000Y", "006Y", "045D", "011M", "072M", "010W", "085Y")
    ],
    *[({"PatientAge": age}, ()) for age in ("001Y", "005Y", "012M", "018M", "071M", "400D", "060W", "1Y")],
    *[({"PatientAge": age}, ("age_unknown",)) for age in (None, "", "Y003", "old", "-3", "999Y")],
    ({"PatientAge": None, "PatientBirthDate": "20200630", "StudyDate": "20260629"}, ()),
    (
        {"PatientAge": None, "PatientBirthDate": "2020.06.30", "StudyDate": "20260630"},
        ("age_outside_training",),
    ),
    (
        {"PatientAge": None, "PatientBirthDate": "20250630", "StudyDate": "20260629"},
        ("age_outside_training",),
    ),
    ({"PatientAge": None, "PatientBirthDate": "20250630", "StudyDate": "20200629"}, ("age_unknown",)),
    ({"PatientAge": None, "PatientBirthDate": "20251399", "StudyDate": "20260629"}, ("age_unknown",)),
    ({"PatientAge": None, "PatientBirthDate": "20220101"}, ("age_unknown",)),
    *[({"ViewPosition": view}, ()) for view in (None, "", "AP", "PA", "BILATERAL")],
    *[({"ViewPosition": view}, ("not_frontal",)) for view in ("LL", "RL", "LLO", "RLD", "LATERAL", "lat")],
    ({"PatientOrientation": ["A", "F"]}, ("not_frontal",)),
    ({"PatientOrientation": ["L", "F"]}, ()),
    ({"ViewCodeSequence": [CODE]}, ("not_frontal",)),
    ({"ViewCodeSequence": [AP_CODE]}, ()),
    ({"BurnedInAnnotation": "YES"}, ("burned_in_text",)),
    ({"BurnedInAnnotation": "NO"}, ()),
    ({"ConversionType": "WSD"}, ("burned_in_text",)),
    ({"SOPClassUID": dicoms.SECONDARY_CAPTURE}, ("burned_in_text",)),
    ({"SOPClassUID": f"{dicoms.SECONDARY_CAPTURE}.4"}, ("burned_in_text",)),
    *[({"Modality": modality}, ("burned_in_text",)) for modality in ("OT", "SC")],
    *[({"Modality": modality}, ()) for modality in (None, "CR", "DX", "DR", "RG", "RF")],
    (
        {"Modality": "OT", "ViewPosition": "LL", "PatientAge": "030Y"},
        ("age_outside_training", "not_frontal", "burned_in_text"),
    ),
]


@pytest.mark.parametrize(("tags", "warnings"), TOLD)
def test_what_the_file_says_becomes_a_warning(tags: dict[str, object], warnings: tuple[str, ...]) -> None:
    assert decode(dicom(**tags), LIMIT)[2] == warnings


def test_other_files_do_not_say_the_age(engine: Engine) -> None:
    seen = engine.examine(pictures.SAMPLE.read_bytes())
    assert seen.warnings[-1] == "age_unknown"
    assert seen.preview


def test_warnings_come_in_the_order_of_their_list(engine: Engine) -> None:
    seen = engine.examine(dicom(Modality="OT", ViewPosition="LL", PatientAge=None))
    assert [*seen.warnings] == sorted(seen.warnings, key=get_args(Warning).index)
    assert {"age_unknown", "not_frontal", "burned_in_text"} <= {*seen.warnings}


@pytest.mark.parametrize("warning", get_args(Warning))
def test_a_doubt_makes_any_probability_uncertain(engine: Engine, warning: Warning) -> None:
    facts = ImageFacts("application/dicom", 320, 256)
    logits, activation = np.array([30, 0], np.float32), np.zeros((2, 2), np.float32)
    told = () if warning == "atypical" else (warning,)
    limits = engine.calibration.typicality
    distance = limits.atypical_above + 1 if warning == "atypical" else 0.0
    finding = interpret(engine.calibration, logits, activation, distance, facts, told)
    assert finding.label == ("uncertain" if warning in DOUBTS else "pneumonia")
    assert finding.probability > finding.thresholds.pneumonia_above


def test_what_may_show_a_name_has_a_preview_only_where_that_is_allowed(engine: Engine) -> None:
    data = dicom(BurnedInAnnotation="YES")
    assert engine.examine(data).preview is None
    assert Engine(burned_in_previews=True).examine(data).preview
    assert engine.examine(dicom()).preview


def test_the_uid_is_kept_only_where_that_is_allowed() -> None:
    assert decode(dicom(), LIMIT)[1].instance_uid is None
    assert decode(dicom(), LIMIT, keep_uid=True)[1].instance_uid == "1.2.3.4"
    assert decode(dicom(SOPInstanceUID="1.2.Doe"), LIMIT, keep_uid=True)[1].instance_uid is None
    with pytest.raises(InputRejected) as caught:
        decode(dicom(Modality="CT"), LIMIT)
    assert caught.value.facts == ImageFacts("application/dicom", 320, 256)
