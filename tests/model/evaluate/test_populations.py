"""The count of confident labels in a population."""

import json
from pathlib import Path

import pytest

from model.evaluate.populations import Populations, judge_populations, populations_table
from pipeline.errors import UsageError
from pipeline.settings import Settings
from tests.support import pictures
from tests.support.commands import cxr


def test_each_folder_is_a_population(tmp_path: Path) -> None:
    for name, makers in (
        ("good", pictures.GOOD),
        ("bad", {n: make for n, (_, make) in pictures.BAD.items()}),
    ):
        for number, make in enumerate(makers.values()):
            path = tmp_path / name / f"ward {number % 2}" / f"person{number // 4}_{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make())
    for name in ("good/.DS_Store", ".git/HEAD"):  # no images, and of no population
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hidden")
    (tmp_path / "good" / "lost").symlink_to(tmp_path / "nowhere")
    answer = cxr("evaluate", "--populations", tmp_path, "--json")
    assert answer.returncode == 0, answer.stderr
    bad, good = Populations.model_validate_json(answer.stdout).populations
    assert (bad.name, bad.images, bad.refused.value) == ("bad", len(pictures.BAD), 1)
    assert (good.name, good.images, good.patients) == (
        "good",
        len(pictures.GOOD),
        (len(pictures.GOOD) + 1) // 2,
    )
    assert good.uncertain.value == 0  # the same X-ray, in many formats
    assert (good.pneumonia, good.normal) == (len(pictures.GOOD), 0)
    assert good.confident.high > 0


def test_a_manifest_names_the_sources(tmp_path: Path) -> None:
    rows = ["file,source,patient_key"]
    for number in range(4):
        (tmp_path / f"{number}.jpeg").write_bytes(pictures.SAMPLE.read_bytes() if number else b"none")
        rows.append(f"{number}.jpeg,{'north' if number < 3 else 'south'},p{number // 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    seen = judge_populations(tmp_path, Settings())
    assert [(one.name, one.images, one.patients) for one in seen.populations] == [
        ("north", 3, 2),
        ("south", 1, 1),
    ]
    assert seen.populations[0].refused.value == pytest.approx(1 / 3, abs=1e-3)
    assert "north" in populations_table(seen)
    assert json.loads(seen.model_dump_json())["model"]["name"] == "cxr"


def test_wrong_folders_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(b"")
    with pytest.raises(UsageError, match="put each population into a folder of its own"):
        judge_populations(tmp_path, Settings())
    (tmp_path / "manifest.csv").write_text("source,name\nnorth,a\n")
    with pytest.raises(UsageError, match="must be a CSV table"):
        judge_populations(tmp_path, Settings())
    for row in ("north,/etc/hostname", "north,../a.jpeg", "north,none.jpeg"):
        (tmp_path / "manifest.csv").write_text(f"source,file\n{row}\n", encoding="utf-8-sig")
        with pytest.raises(UsageError, match="has no such file"):
            judge_populations(tmp_path, Settings())
    answer = cxr("evaluate", "--populations", tmp_path, "--all")
    assert (answer.returncode, b"cannot be combined with --populations" in answer.stderr) == (2, True)
    for arguments in ((), (tmp_path, "--populations", tmp_path)):
        answer = cxr("evaluate", *arguments)
        assert (answer.returncode, b"--populations FOLDER" in answer.stderr) == (2, True)
