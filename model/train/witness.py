"""Have a network judge an era that it has not seen, the closest one archive comes to another year's films.

The probability and its thresholds are fitted to the answers of all witnesses, on clean and on stressed
images, so that they hold when the films change; see `model.calibrate`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from model.data import load_pixels
from model.train.member import AVERAGED, TrainConfig, TrainingJob, served_input
from model.train.network import Member
from model.train.settle import settle_statistics
from model.train.stress import STRESSES
from pipeline.errors import UsageError

SAID = "said.npz"  # in a witness's folder once it has judged its era
_SHARE = 4  # each stress is applied to every fourth image; all would take as long as training


@dataclass(frozen=True)
class Testimony:
    """Hold the witnesses' answers about N images, some of them stressed."""

    logits: npt.NDArray[np.float32]  # [N, 2]
    truth: npt.NDArray[np.int_]  # [N]
    viral: npt.NDArray[np.int_]  # [N]
    era: npt.NDArray[np.int_]  # [N]
    stress: npt.NDArray[np.str_]  # [N]
    patient: npt.NDArray[np.str_]  # [N]


@torch.inference_mode()
def testify(job: TrainingJob, out: Path, config: TrainConfig) -> None:
    """Have a finished witness judge its era, and save its answers."""
    member = Member(config.network)
    member.load_state_dict(load_file(out / AVERAGED))
    settle_statistics(member, torch.from_numpy(load_pixels(job.learned))[:, None], config.network.size)
    pixels, parts = torch.from_numpy(load_pixels(job.held_out))[:, None], []
    for number, (name, stress) in enumerate(STRESSES.items()):
        chosen = np.arange(len(pixels)) if name == "none" else np.arange(number % _SHARE, len(pixels), _SHARE)
        batches = (served_input(stress(batch), config.network.size) for batch in pixels[chosen].split(64))
        logits = torch.cat([member(batch).mean((2, 3)) for batch in batches]).numpy()
        parts.append((chosen, np.full(len(chosen), name), logits))
    chosen, names, logits = (np.concatenate(column) for column in zip(*parts, strict=True))
    of = [job.held_out[index] for index in chosen]
    np.savez(
        out / SAID,
        logits=logits,
        truth=np.array([sample.label for sample in of]),
        viral=np.array([sample.viral for sample in of]),
        era=np.array([sample.era for sample in of]),
        stress=names,
        patient=np.array([sample.patient for sample in of]),
    )


def heard(folders: list[Path]) -> Testimony:
    """Load the answers of all witnesses from their folders; raise UsageError when one has not finished."""
    for folder in folders:
        if not (folder / SAID).is_file():
            raise UsageError(f"{folder} is not finished; run the same `cxr train` again to resume it")
    said = [np.load(folder / SAID) for folder in folders]
    return Testimony(
        *(np.concatenate([one[name] for one in said]) for name in Testimony.__dataclass_fields__)
    )
