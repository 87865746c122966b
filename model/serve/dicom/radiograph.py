"""Interpret a DICOM file's tags: decide whether it is a chest radiograph, and which warnings apply."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

from model.serve.dicom.anatomy import is_not_frontal, part_elsewhere
from pipeline.verdict import Warning

# From PS3.3 C.7.3.1.1.1: computed, digital and film. DR, SC and XR are not standard terms, but in use. RF of
# one frame is a spot film. Secondary captures say OT, and anonymisers may leave it empty. Typicality catches
# images that are none of these.
_RADIOGRAPHS = ("CR", "DX", "DR", "RG", "RF", "OT", "SC", "XR", "")
_SECONDARY = ("OT", "SC")
_SECONDARY_CLASSES = "1.2.840.10008.5.1.4.1.1.7."  # this class and those below it
_RAW_CLASS = "1.2.840.10008.5.1.4.1.1.1.1.1"  # digital X-ray, for processing
_OTHERS = frozenset(
    re.findall(
        "[A-Z]+",
        "ANN AR ASMT AU BDUS BI BMD CD CF CP CS CT CTPROTOCOL DD DF DG DM DMS DOC DS EC ECG EEG EMG EOG EPS"
        " ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS MA MG MR MS NM OAM OCT OP OPM OPR OPT"
        " OPTBSV OPTENF OPV OSS PA PLAN POS PR PT PX REG RESP RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD"
        " RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL XC",
    )
)
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25, "J": 365.25, "A": 365.25}
_YOUNGEST, _OLDEST, _OLDEST_MAN = 1, 5, 130  # completed years; the first two bound the training data


@dataclass(frozen=True)
class Tags:
    """Hold the texts of a file's tags, in capitals; empty when missing. They are used only here."""

    modality: str = ""
    body_part: str = ""
    regions: tuple[str, ...] = ()  # the codes and meanings of the region's sequences
    views: tuple[str, ...] = ()  # ViewPosition, and the codes and meanings of the view's sequences
    orientation: tuple[str, ...] = ()  # PatientOrientation: where the rows and the columns lead
    age: str = ""
    born: str = ""
    taken: tuple[str, ...] = ()  # dates, the best one first
    burned_in: str = ""
    sop_class: str = ""
    conversion: str = ""
    intent: str = ""

    @property
    def refusal(self) -> str | None:
        """Return why the file is refused as not a chest X-ray, for the person who dropped it; None if
        accepted.

        The message quotes nothing from the file; its words are from our own lists.
        """
        if self.modality in _OTHERS:
            return f"Not a radiograph (modality {self.modality}). Drop a frontal chest X-ray."
        if self.modality not in _RADIOGRAPHS:
            return "Not a radiograph (its modality is unknown). Drop a frontal chest X-ray."
        part = part_elsewhere((self.body_part, *self.regions))
        return f"Not a chest X-ray (body part: {part}). Drop a frontal chest X-ray." if part else None

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """Return the warnings, in the order of the verdict's list."""
        ages = self.years
        found: dict[Warning, bool] = {
            "age_outside_training": any(not _YOUNGEST <= age <= _OLDEST for age in ages),
            "age_unknown": not ages,
            "not_frontal": self._is_not_frontal,
            "for_processing": self._is_raw,
            "burned_in_text": self._may_hold_text,
        }
        return tuple(warning for warning, is_so in found.items() if is_so)

    @property
    def years(self) -> tuple[int, ...]:
        """Return the patient's completed years of age at the X-ray, as stated and as computed from the date
        of birth.
        """
        return (*_stated(self.age), *self._worked_out())

    def _worked_out(self) -> Iterator[int]:
        born = _date(self.born)
        for taken in map(_date, self.taken):
            if born and taken and born <= taken:
                years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
                if years <= _OLDEST_MAN:
                    yield years
                    return

    @property
    def _is_not_frontal(self) -> bool:
        """Return whether a view says so, or rows or columns lead to the patient's front or back (A or P)."""
        return any(text[:1] in ("A", "P") for text in self.orientation[:2]) or is_not_frontal(self.views)

    @property
    def _is_raw(self) -> bool:
        """Return whether these are raw detector data, which do not look like a processed X-ray."""
        return "PROCESSING" in self.intent or self.sop_class == _RAW_CLASS

    @property
    def _may_hold_text(self) -> bool:
        """Return whether names may be burned in, as in a secondary capture of a screen or a paper."""
        secondary = f"{self.sop_class}.".startswith(_SECONDARY_CLASSES) or self.modality in _SECONDARY
        return self.burned_in == "YES" or secondary or bool(self.conversion)


def _stated(age: str) -> Iterator[int]:
    """Yield the years of "003Y", "3 Y", "18 months", "3.5Y", "1Y6M" or "42"; nothing when it is not an age.

    J stands for the German Jahre, A for the Spanish años and the Italian anni.
    """
    number, unit = r"(\d{1,4}(?:[.,]\d{1,2})?)\s*", r"([DWMYJA])[A-ZÄÖÜÑ]{0,5}\.?"
    found = re.fullmatch(rf"{number}(?:{unit}\s*(?:{number}{unit})?)?", age.strip().upper())
    if not found:
        return
    parts = ((found[1], found[2] or "Y"), (found[3] or "0", found[4] or "Y"))
    days = sum(float(size.replace(",", ".")) * _DAYS[unit] for size, unit in parts)
    years = int(days / _DAYS["Y"] + 1e-6)
    if years <= _OLDEST_MAN:
        yield years


def _date(text: str) -> date | None:
    digits = re.sub(r"[.\-/]", "", text)[:8]  # ACR-NEMA dates contain dots; a date-time is longer
    with suppress(ValueError):
        return date.fromisoformat(digits) if re.fullmatch(r"\d{8}", digits) else None
    return None
