"""The rules for a DICOM file's tags: refusals, warnings and orientation."""

from typing import get_args

import numpy as np
import pytest
from pydicom.dataset import Dataset

from model.serve.dicom.radiograph import Tags
from model.serve.engine import Engine, Outputs, interpret
from model.serve.files.decode import decode
from pipeline.errors import InputRejected
from pipeline.records import ImageFacts
from pipeline.verdict import DOUBTS, Warning
from tests.support import dicoms, pictures
from tests.support.dicoms import dicom

LIMIT = 2_000_000  # pixels


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.mark.parametrize(
    "part",
    [
        *("", "CHEST", "THORAX", "CHEST HEAD", "ABDOMEN", "TSPINE", "RIB", "HANDLE", "?", "CHEST EXTREMITY"),
        *(
            "THORAX_UP",
            "CHEST/ABD",
            "PULMONAIRE",
            "PULMONAR",
            "SHLDR",
            "SCHULTERGELENK",
            "LOWBACK",
            "UPRIGHT",
        ),
        *("CHESTABDPELVIS", "PELVISCHEST", "BABYGRAM", "LOW", "UP", "NECK", "STERNUM", "CHESTHAND"),
        *("TORAX", "TORACE", "PULMON", "BRUSTKORB", "POUMONS", "POITRINE", "LUNGS", "SHOULDERS", "WHOLEBODY"),
    ],
)
def test_a_body_part_that_may_be_a_chest_is_taken(part: str) -> None:
    assert Tags(body_part=part).refusal is None


ELSEWHERE = {
    "hand": "HANDE MANI HANDWRIST HAND HANDS MANO MANOS MAO MAIN HAND_LEFT LHAND",
    "finger": "FINGERS DEDO DOIGT DITO",
    "wrist": "POLSI HANDGELENKE WRISTS HANDGELENK POIGNET POLSO",
    "forearm": "UNTERARME RADIUSULNA AVANTBRAS ULNA RADIUS FOREARM UNTERARM",
    "elbow": "ELBOW CODO COTOVELO GOMITO",
    "upper arm": "OBERARME UPARM HUMERUS ARM UPPERARM OBERARM BRAZO",
    "arm or leg": (
        "LOWEXT UP_EXM LOWEXM UPEXT UPREXT EXTREMITY EXTREMITIES UPPEREXTREMITY LOWEREXTREMITY EXTREMIDAD"
    ),
    "foot": "FOOT FEET PIED FUSS PIEDE",
    "ankle": "CAVIGLIE FUSSGELENK SPRUNGGELENKE",
    "toe": "TOES ZEHEN ORTEIL",
    "leg": "GAMBE TIBFIB TIB/FIB BEINE TIBIA FIBULA LOWERLEG LOWER-LEG PIERNA",
    "knee": "KNIEGELENK BILATKNEES KNEES RODILLA GENOU KNIE GINOCCHIO JOELHO",
    "hip": "HUEFTGELENK HUFTEN QUADRIS HIPS CADERA HANCHE",
    "pelvis": "PELVIS BECKEN BASSIN BACINO",
    "head": "SKULL CRANIUM CRANEO SCHADEL HEAD SINUS MANDIBLE",
    "tooth": "TEETH ZAHN",
    "breast": "BREAST MAMA",
}


@pytest.mark.parametrize(
    ("part", "word"), [(part, word) for part in ELSEWHERE for word in ELSEWHERE[part].split()]
)
def test_another_part_of_the_body_is_refused_by_our_own_name_for_it(part: str, word: str) -> None:
    assert f"(body part: {part})" in (Tags(body_part=word).refusal or "")


def test_accents_and_small_letters_do_not_hide_a_body_part() -> None:
    for text in ("Cráneo", "Fuß", "Schädel", "pé PIES", "Hüfte", "Füße", "Hände"):
        with pytest.raises(InputRejected, match=r"\(body part: (head|foot|hip|hand)\)"):
            decode(dicom(SpecificCharacterSet="ISO_IR 100", BodyPartExamined=text), LIMIT)


@pytest.mark.parametrize(
    ("value", "meaning", "part"),
    [
        ("T-D8700", None, "hand"),
        ("85562004", None, "hand"),
        ("72696002", "", "knee"),
        ("X-1", "Skull structure", "head"),
        ("T-D3000", "Chest", None),
        ("51185008", None, None),
        ("R-FAB55", None, None),
        ("T-D4000", "Abdomen", None),
    ],
)
def test_the_region_names_the_body_part_by_code_or_meaning(
    value: str, meaning: str | None, part: str | None
) -> None:
    data = dicom(BodyPartExamined=None, AnatomicRegionSequence=[code(value, meaning)])
    if part:
        with pytest.raises(InputRejected, match=f"body part: {part}"):
            decode(data, LIMIT)
    else:
        decode(data, LIMIT)


def test_a_chest_in_either_place_is_a_chest() -> None:
    decode(dicom(BodyPartExamined="EXTREMITY", AnatomicRegionSequence=[code("T-D3000", "Chest")]), LIMIT)


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "NM", "PT", "XA", "MG", "PX"])
def test_a_known_modality_is_named_and_another_is_not(modality: str) -> None:
    assert (Tags(modality=modality).refusal or "").startswith(f"Not a radiograph (modality {modality}).")
    assert "DOE" not in (Tags(modality="DOE^JOHN").refusal or "DOE")


def code(value: str, meaning: str | None = None, **more: object) -> Dataset:
    """Return an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = value, "SCT" if value.isdigit() else "SRT"
    if meaning is not None:
        item.CodeMeaning = meaning
    for name, items in more.items():
        setattr(item, name, items)
    return item


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
    (
        {"PatientAge": "003Y", "PatientBirthDate": "19600101", "StudyDate": "20200101"},
        ("age_outside_training",),
    ),
    (
        {"PatientAge": "030Y", "PatientBirthDate": "20170101", "StudyDate": "20200601"},
        ("age_outside_training",),
    ),
    ({"PatientAge": "003Y", "PatientBirthDate": "20170101", "StudyDate": "20200601"}, ()),
    *[
        ({"PatientAge": None, "PatientBirthDate": "19600101", date: "20200101"}, ("age_outside_training",))
        for date in ("SeriesDate", "AcquisitionDate", "ContentDate")
    ],
    *[
        ({"ViewPosition": view}, ())
        for view in (None, "", "AP", "PA", "BILATERAL", "BILAT", "UPRIGHT", "LEFT")
    ],
    *[
        ({"ViewPosition": view}, ("not_frontal",))
        for view in (
            *("LL", "RL", "LLO", "RLD", "LATERAL", "lat", "LLD", "RAO", "LAO", "RPO", "LPO", "OBL", "L LAT"),
            *(
                "R-LAT",
                "LT LATERAL",
                "PROFILE",
                "PROFIL",
                "PERFIL",
                "OBLIQUE",
                "OBLICUA",
                "DECUBITUS",
                "LLAT",
            ),
            *("SEITL", "SEITL.", "XTLAT", "LATDEC", "LATEROLATERAL", "TRANSLATERAL", "LATER", "XTABLELAT"),
            *("SCHRAEGAUFNAHME", "SEITLICHE", "LATERODECUBITO", "MEDLAT"),
            *("LATERALE", "SEITLICH", "PA_OBL", "L LAT DECUB"),
        )
    ],
    ({"PatientOrientation": ["A", "F"]}, ("not_frontal",)),
    ({"PatientOrientation": ["F", "P"]}, ("not_frontal",)),
    ({"PatientOrientation": ["L", "F"]}, ()),
    *[
        ({"ViewCodeSequence": [code(*view)]}, ("not_frontal",))
        for view in (
            *(("X", "Left lateral"), ("R-10236",), ("399173006",), ("R-10228", ""), ("R-10220",)),
            *(("399135007", "?"), ("F-10319",), ("102535000",)),
        )
    ],
    *[
        ({"ViewCodeSequence": [code(*view)]}, ())
        for view in (("X", "antero-posterior"), ("R-10206",), ("399348003",), ("R-10214", "postero-anterior"))
    ],
    (
        {"ViewCodeSequence": [code("R-10206", "AP", ViewModifierCodeSequence=[code("21114003", "oblique")])]},
        ("not_frontal",),
    ),
    ({"PresentationIntentType": "FOR PROCESSING"}, ("for_processing",)),
    ({"PresentationIntentType": "FOR PRESENTATION"}, ()),
    ({"SOPClassUID": f"{dicoms.DIGITAL_XRAY}.1"}, ("for_processing",)),
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
    calibration = engine.calibration
    distance = calibration.typicality.atypical_above + 1 if warning == "atypical" else 0.0
    outside = calibration.outside_above + (1 if warning == "other_population" else -1)
    said = Outputs(*(np.asarray(part, np.float32) for part in ([30, 0], np.zeros((2, 2)), distance, outside)))
    told = () if warning in ("atypical", "other_population") else (warning,)
    finding = interpret(calibration, said, facts, told)
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


@pytest.mark.parametrize(
    ("age", "years"),
    [
        *(
            ("42", (42,)),
            ("3", (3,)),
            ("42Y", (42,)),
            ("3 Y", (3,)),
            ("003Y", (3,)),
            ("18M", (1,)),
            ("60 M", (5,)),
        ),
        *(("3.5Y", (3,)), ("3,5 Y", (3,)), ("003J", (3,)), ("3 JAHRE", (3,)), ("3a", (3,)), ("2 años", (2,))),
        *(("1Y6M", (1,)), ("1Y 18M", (2,)), ("4Y11M", (4,)), ("6M3D", (0,)), ("1.2.3Y", ()), ("3A4", ())),
        *(("100W", (1,)), ("400D", (1,)), ("5 YEARS", (5,)), ("", ()), ("Y", ()), ("999Y", ()), ("4.5X", ())),
    ],
)
def test_an_age_is_read_as_devices_write_it(age: str, years: tuple[int, ...]) -> None:
    assert Tags(age=age).years == years


@pytest.mark.parametrize("senseless", ["19000101", "20180101", "20190230", "99991231", "soon"])
def test_a_senseless_date_does_not_keep_the_others_from_being_tried(senseless: str) -> None:
    assert Tags(born="20190101", taken=(senseless, "", "20230301")).years == (4,)


def test_a_birth_date_of_another_century_is_no_age() -> None:
    assert Tags(born="18000101", taken=("20200101",)).years == ()
