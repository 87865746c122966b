"""Count the answers about whole populations, including those that the network should not judge.

Each population is a folder of images without labels: children of another hospital, adults, lateral views,
hands, photographs. The main figure is how many get a confident label.
"""

import csv
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from model.data import patient_of
from model.evaluate.bootstrap import METHOD, Bootstrap, Metric
from model.evaluate.folder import side_by_side
from model.serve.guarded import GuardedEngine
from pipeline.errors import EngineFailed, InputRejected, UsageError
from pipeline.names import is_unfinished
from pipeline.settings import Settings
from pipeline.store.walk import keys
from pipeline.verdict import ModelRef


class PopulationCounts(BaseModel):
    """Count the answers about one population; the shares are of all its images."""

    name: str
    images: int
    patients: int
    refused: Metric = Field(description="share that was not judged")
    uncertain: Metric = Field(description="share that was judged, without a confident label")
    confident: Metric = Field(description="share that got a confident label")
    pneumonia: int = Field(description="images with the confident label `pneumonia`")
    normal: int = Field(description="images with the confident label `normal`")


class Populations(BaseModel):
    """Hold the counts of several populations, judged by one network."""

    populations: list[PopulationCounts]
    model: ModelRef


def judge_populations(folder: Path, settings: Settings) -> Populations:
    """Judge all images of a folder, in which each folder is a population.

    If the folder has a `manifest.csv`, each `source` in it is a population instead; its columns `file` and
    `patient_key` name images and patients. Raises UsageError when there is no population.
    """
    found = find_populations(folder)
    with GuardedEngine.of(settings) as engine:
        engine.warm(settings.threads)
        judged = []
        for name, images in sorted(found.items()):
            paths, patients = [path for path, _ in images], [patient for _, patient in images]
            judge = partial(_said, engine, settings.max_bytes)
            judged.append(_population(name, patients, side_by_side(judge, paths, settings.threads, name)))
        return Populations(populations=judged, model=engine.model)


def find_populations(folder: Path) -> dict[str, list[tuple[Path, str]]]:
    """Return the images of each population (see `judge_populations`), each with its patient."""
    found = _by_source(folder) or _by_folder(folder)
    if not found:
        raise UsageError(f"{folder} holds no folder of images; put each population into a folder of its own")
    return found


def populations_table(seen: Populations) -> str:
    """Build a table with a line for each population."""
    lines = [f"{'':24} {'images':>6}  {'refused':24} {'uncertain':24} confident"]
    for one in seen.populations:
        lines.append(f"{one.name:24} {one.images:6}  {one.refused!s:24} {one.uncertain!s:24} {one.confident}")
    return "\n".join([*lines, f"Shares of all images; 95 % intervals {METHOD}."])


def _by_source(folder: Path) -> dict[str, list[tuple[Path, str]]]:
    path, found = folder / "manifest.csv", defaultdict[str, list[tuple[Path, str]]](list)
    if not path.is_file():
        return found
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                source, name = row.get("source"), row["file"]
                if source and name:
                    image = (folder / name).resolve()
                    if not image.is_relative_to(folder.resolve()) or not image.is_file():
                        raise UsageError(f"{path} names {name}, but {folder} has no such file")
                    found[source].append((image, row.get("patient_key") or name))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: it must be a CSV table with the column `file`") from error
    return found


def _by_folder(folder: Path) -> dict[str, list[tuple[Path, str]]]:
    found = defaultdict[str, list[tuple[Path, str]]](list)
    for key in sorted(keys(folder, "", strict=True)):
        name, slash, inner = key.partition("/")
        if slash and not is_unfinished(key) and (folder / key).is_file():
            within, _, file = inner.rpartition("/")
            found[name].append((folder / key, patient_of(file, within)))
    return found


def _said(engine: GuardedEngine, max_bytes: int, path: Path) -> str:
    """Return the label of an image, or `refused`."""
    try:
        if path.stat().st_size > max_bytes:
            return "refused"
        return engine.examine(path.read_bytes()).finding.label
    except (InputRejected, EngineFailed):
        return "refused"
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error


def _population(name: str, patients: list[str], said: list[str]) -> PopulationCounts:
    words, draws = np.array(said), Bootstrap(patients)

    def share(*wanted: str) -> Metric:
        found = draws.share(np.isin(words, wanted), np.ones(len(words), np.bool_))
        assert found is not None
        return found

    return PopulationCounts(
        name=name,
        images=len(said),
        patients=len(set(patients)),
        refused=share("refused"),
        uncertain=share("uncertain"),
        confident=share("normal", "pneumonia"),
        pneumonia=said.count("pneumonia"),
        normal=said.count("normal"),
    )
