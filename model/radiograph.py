"""What the tags of a DICOM file mean here: is it a radiograph of a chest, and what to be warned of."""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

from pipeline.verdict import Warning

# By PS3.3 C.7.3.1.1.1: computed, digital and film; DR and SC are no terms of it, and in use. RF of one frame
# is a spot film. OT is what secondary captures say, and anonymisers leave nothing. What none of them is, the
# network's typicality finds.
_RADIOGRAPHS = ("CR", "DX", "DR", "RG", "RF", "OT", "SC", "")
_SECONDARY = ("OT", "SC")
_SECONDARY_CLASSES = "1.2.840.10008.5.1.4.1.1.7."  # it and those under it

# A console's protocol sets the body part; it is often missing, and may be wrong. So only what holds no chest
# is refused; not the abdomen (a newborn's X-ray shows both), spine, ribs or shoulder. A verdict about a knee
# is worse than a mislabelled chest that has to be dropped again.
_CHEST = frozenset(("CHEST", "THORAX"))
_ELSEWHERE = frozenset(
    (
        *("HAND", "FINGER", "THUMB", "WRIST", "FOREARM", "ELBOW"),
        *("FOOT", "TOE", "HEEL", "CALCANEUS", "ANKLE", "LEG", "KNEE", "PATELLA", "FEMUR", "THIGH"),
        *("HIP", "PELVIS", "SKULL", "HEAD", "FACE", "NOSE", "JAW", "MANDIBLE", "MAXILLA", "TOOTH", "TEETH"),
        *("ORBIT", "SINUS", "BREAST"),
    )
)
_NOT_FRONTAL = re.compile(r"\b(LL|RL|LLD|RLD|LLO|RLO|LAT|LATERAL|OBLIQUE|DECUBITUS)\b")
_IN_A_YEAR = {"D": 365, "W": 52, "M": 12, "Y": 1}
_YOUNGEST, _OLDEST = 1, 5  # completed years, in the training data


@dataclass(frozen=True)
class Tags:
    """The texts of a file's tags, in capitals; empty where there is none. They leave it no further."""

    modality: str = ""
    body_part: str = ""
    views: tuple[str, ...] = ()  # ViewPosition, and the meanings of ViewCodeSequence
    orientation: str = ""  # PatientOrientation: where the rows lead
    age: str = ""
    born: str = ""
    studied: str = ""
    burned_in: str = ""
    sop_class: str = ""
    conversion: str = ""

    @property
    def refusal(self) -> str | None:
        """Why this is to be no chest X-ray, for the person who dropped it.

        It quotes nothing that a stranger could have written.
        """
        if self.modality not in _RADIOGRAPHS:
            return "The DICOM file says that it is no radiograph. Drop a frontal chest X-ray."
        words = frozenset(re.findall("[A-Z]+", self.body_part))
        if words & _ELSEWHERE and not words & _CHEST:
            part = min(words & _ELSEWHERE).lower()
            return f"The DICOM file says that it shows another part of the body: {part}. Drop a chest X-ray."
        return None

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """In the order of the verdict's list."""
        age = self.years
        found: dict[Warning, bool] = {
            "age_outside_training": age is not None and not _YOUNGEST <= age <= _OLDEST,
            "age_unknown": age is None,
            "not_frontal": self._is_not_frontal,
            "burned_in_text": self._may_hold_text,
        }
        return tuple(warning for warning, is_so in found.items() if is_so)

    @property
    def years(self) -> int | None:
        """The patient's age, completed, at the study."""
        stated = re.fullmatch(r"(\d{1,3})([DWMY])", self.age)
        if stated:
            return int(stated[1]) // _IN_A_YEAR[stated[2]]
        born, studied = _date(self.born), _date(self.studied)
        if not born or not studied or studied < born:
            return None
        return studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))

    @property
    def _is_not_frontal(self) -> bool:
        """Also where rows lead to the patient's front (anterior) or back (posterior)."""
        return self.orientation.startswith(("A", "P")) or any(map(_NOT_FRONTAL.search, self.views))

    @property
    def _may_hold_text(self) -> bool:
        """A secondary capture is the picture of a screen or a paper, where names stand."""
        secondary = f"{self.sop_class}.".startswith(_SECONDARY_CLASSES) or self.modality in _SECONDARY
        return self.burned_in == "YES" or secondary or bool(self.conversion)


def _date(text: str) -> date | None:
    digits = text.replace(".", "")  # ACR-NEMA had points in it
    with suppress(ValueError):
        return date.fromisoformat(digits) if re.fullmatch(r"\d{8}", digits) else None
    return None
