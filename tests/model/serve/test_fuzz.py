"""Damage to a file, in any format or DICOM encoding, ends in an answer or a refusal and nothing else."""

from pathlib import Path

import pytest

from tests.support.fuzz import WHOLE, damaged, fuzz


@pytest.mark.timeout(180)
def test_any_damage_to_any_file_is_refused_or_classified(tmp_path: Path) -> None:
    report = fuzz(12, seed=1, folder=tmp_path)
    assert not report.findings, str(report)
    assert sum(report.outcomes.values()) > 50, str(report)


def test_one_seed_makes_the_same_files_and_each_kind_is_damaged() -> None:
    whole = {name: name.encode() * 99 for name in WHOLE}
    made = [damaged(1, number, whole) for number in range(1000)]
    assert made == [damaged(1, number, whole) for number in range(1000)]
    assert {name for name, _ in made} == set(WHOLE)
    assert sum(data == whole[name] for name, data in made) < 50
