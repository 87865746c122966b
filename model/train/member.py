"""Train one network, from top to bottom; `model.train.ensemble` trains them all.

A run is a folder. It holds `state.pt`, everything needed to resume after a kill, and at the end the averaged
weights.
"""

import json
import math
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.data import Sample, load_pixels
from model.train.augment import Augment, normalised
from model.train.network import Member, NetworkConfig
from model.train.planting import find_lungs, plant_lobes
from model.train.vision import v2
from pipeline.errors import UsageError

_COVERED, _TOUCHED = 0.4, 0.02  # covered share of a map cell: more is inside, less is outside the opacity
_RARE = 4  # extra weight of cells in an opacity, since they are few
AVERAGED = "averaged.safetensors"  # in a member's folder once its training is complete


@dataclass(frozen=True)
class TrainConfig:
    """Hold the training recipe."""

    epochs: float = 8
    batch: int = 32
    rate: float = 1e-3  # AdamW's peak, reached after a tenth of the run, then a cosine down to zero
    weight_decay: float = 0.05
    smoothing: float = 0.05  # of the labels, since some of them are wrong and overconfidence is costly
    viral_weight: float = 0.2  # weight of the auxiliary bacterial-or-viral loss
    planted: float = 0.4  # share of the normal images with lungs found that get an opacity: see `planting`
    place_weight: float = 0.5  # weight of the loss on where the evidence lies
    averaging: float = 0.998  # decay of the exponential moving average of the weights, which is shipped
    seed: int = 1  # of the first member; the others count up from it
    network: NetworkConfig = field(default_factory=NetworkConfig)


@dataclass(frozen=True)
class TrainingJob:
    """Describe one training: of a member, or of a witness, which trains on all eras but one and judges that
    one.
    """

    name: str  # also the name of its folder
    learned: list[Sample]
    held_out: list[Sample]
    seed: int
    is_witness: bool = False


@dataclass(frozen=True)
class Tick:
    """Report a job's progress; `epoch` holds the figures of an epoch that has just ended."""

    job: str
    step: int
    last_step: int
    loss: float
    rate: float  # images per second
    epoch: dict[str, float] | None = None


class TrainingRun:
    """Run a job in its folder; a new object on the same folder resumes where the last one stopped."""

    def __init__(self, job: TrainingJob, out: Path, config: TrainConfig) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.config, self.out, self.job = config, out, job
        samples = job.learned
        torch.manual_seed(job.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = Member(config.network)
        self.network.backbone.load_imagenet()
        self.network.to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(config.averaging), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.network, config.weight_decay), lr=config.rate, fused=True
        )
        self.step = 0  # batches done since the start of the run
        self.steps_per_epoch = len(samples) // config.batch
        counts = torch.bincount(torch.tensor([sample.label for sample in samples]), minlength=2)
        self.weights = len(samples) / (2 * counts)  # of the classes
        self.history: list[dict[str, float]] = []

    @property
    def last_step(self) -> int:
        return int(self.steps_per_epoch * self.config.epochs)

    def save(self) -> None:
        """Write the state beside the old one and swap them, so that a kill leaves a whole file."""
        state = {
            "config": json.dumps(asdict(self.config)),
            "step": self.step,
            "history": json.dumps(self.history),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.out / "state.pt.part"
        torch.save(state, temporary)
        temporary.replace(self.out / "state.pt")

    def resume(self) -> bool:
        """Load the state of an earlier process if there is one; raise UsageError when its recipe differs."""
        path = self.out / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["config"] != json.dumps(asdict(self.config)):
            raise _other_settings(self.out)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history = state["step"], json.loads(state["history"])
        return True

    def learn(self, batch: "Batch") -> float:
        """Do one step of gradient descent and return the loss."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * rate_at(self.step / self.last_step)
        evidence = self.network(batch.images.to(self.device, memory_format=torch.channels_last))
        loss = self._loss(evidence.cpu(), batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return float(loss.detach())

    def finish(self) -> None:
        """Write the averaged weights, which are shipped, with the run's history."""
        weights = {name: value.contiguous().cpu() for name, value in self.average.module.state_dict().items()}
        notes = {"history": json.dumps(self.history), "config": json.dumps(asdict(self.config))}
        save_file(weights, self.out / AVERAGED, notes)

    def tick(self, loss: float, rate: float, epoch: dict[str, float] | None = None) -> Tick:
        """Build a progress report."""
        return Tick(self.job.name, self.step, self.last_step, loss, rate, epoch)

    def _loss(self, evidence: Tensor, batch: "Batch") -> Tensor:
        logits = evidence.mean((2, 3))
        # Both classes weigh the same, so the decision shifts less at another prevalence.
        weight = self.weights[batch.labels] * ~batch.planted
        loss = functional.binary_cross_entropy_with_logits(logits[:, 0], self._soft(batch.labels), weight)
        known = batch.viral >= 0
        if known.any():
            pattern = functional.binary_cross_entropy_with_logits(
                logits[known, 1], batch.viral[known].float()
            )
            loss = loss + self.config.viral_weight * pattern
        return loss + self.config.place_weight * self._place_loss(evidence[:, 0], batch)

    def _place_loss(self, evidence: Tensor, batch: "Batch") -> Tensor:
        """Return the loss on normal images that asks for evidence in planted opacities and against it
        elsewhere.
        """
        cells = batch.where.shape[-1] // evidence.shape[-1]
        covered = functional.avg_pool2d(batch.where[:, None].float(), cells)[:, 0]
        is_planted = covered > _COVERED
        counted = (batch.labels == 0)[:, None, None] & (is_planted | (covered < _TOUCHED))
        weight = counted * (1 + _RARE * is_planted)
        losses = functional.binary_cross_entropy_with_logits(
            evidence, self._soft(is_planted), reduction="none"
        )
        return (losses * weight).sum() / weight.sum().clamp_min(1)

    def _soft(self, labels: Tensor) -> Tensor:
        return labels.float() * (1 - self.config.smoothing) + self.config.smoothing / 2


@dataclass(frozen=True)
class Batch:
    """Hold N images as the network gets them, with their labels and masks."""

    images: Tensor  # [N, 1, size, size]
    labels: Tensor  # [N]: 1 pneumonia, 0 normal
    viral: Tensor  # [N]: 1 viral, 0 bacterial, -1 not known
    where: Tensor  # [N, size, size]: mask of the planted opacity
    planted: Tensor  # [N]: whether there is one; such an image is neither normal nor a pneumonia


class Drawer:
    """Draw batches of samples, changed at random; every draw depends on the seed and the step alone."""

    def __init__(self, samples: list[Sample], config: TrainConfig, seed: int) -> None:
        self._samples, self._config, self._seed = samples, config, seed
        self._pixels = torch.from_numpy(load_pixels(samples))[:, None]
        normal = [index for index, sample in enumerate(samples) if not sample.label]
        found = find_lungs([self._pixels[index, 0].numpy() for index in normal])
        self._lungs = {index: lungs for index, lungs in zip(normal, found, strict=True) if lungs is not None}
        self._augment = Augment(config.network.size, self._pixels)

    def order(self, epoch: int) -> Tensor:
        """Return the order of the samples in an epoch."""
        draw = np.random.default_rng([self._seed, epoch])
        return torch.from_numpy(draw.permutation(len(self._samples)))

    def batch(self, indices: Tensor, step: int) -> Batch:
        """Return the batch of a step."""
        torch.manual_seed(self._seed * 1_000_003 + step)
        chance = np.random.default_rng([self._seed, step, 1])
        drawn = [self._draw(int(index), chance) for index in indices]
        chosen = [self._samples[index] for index in indices]
        return Batch(
            images=torch.stack([image for image, _ in drawn]),
            labels=torch.tensor([sample.label for sample in chosen]),
            viral=torch.tensor([sample.viral for sample in chosen]),
            where=torch.stack([where for _, where in drawn]),
            planted=torch.tensor([bool(where.any()) for _, where in drawn]),
        )

    def _draw(self, index: int, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
        image, where = self._pixels[index], torch.zeros(self._pixels.shape[-2:], dtype=torch.bool)
        if index in self._lungs and chance.random() < self._config.planted:
            image, where = plant_lobes(image, self._lungs[index], chance)
        return self._augment(image, where)


def is_trained(out: Path, config: TrainConfig) -> bool:
    """Return whether the training in a folder is complete; raise UsageError when it used another recipe."""
    if not (out / AVERAGED).is_file():
        return False
    with safe_open(out / AVERAGED, "pt") as file:
        if file.metadata()["config"] != json.dumps(asdict(config)):
            raise _other_settings(out)
    return True


def _other_settings(out: Path) -> UsageError:
    return UsageError(f"{out} holds a run with other settings; choose another --out")


def train_member(job: TrainingJob, out: Path, config: TrainConfig) -> Iterator[Tick]:
    """Run a job in the folder `out` and yield its progress.

    Ctrl-C or SIGTERM saves and raises KeyboardInterrupt; the same call resumes.
    """
    run = TrainingRun(job, out, config)
    run.resume()
    drawer = Drawer(job.learned, config, job.seed)
    held_out = validation_tensor(job.held_out, config.network.size)
    with _stop_signal() as stopped:
        while run.step < run.last_step:
            yield from _epoch(run, drawer, stopped)
            yield _finish_epoch(run, held_out)
    run.finish()


def _epoch(run: TrainingRun, drawer: Drawer, stopped: list[int]) -> Iterator[Tick]:
    """Train from the current step to the end of the epoch, or of the run."""
    epoch, first = divmod(run.step, run.steps_per_epoch)
    last = min(run.steps_per_epoch, run.last_step - epoch * run.steps_per_epoch)
    losses, began = [], time.monotonic()
    for indices in drawer.order(epoch).split(run.config.batch)[first:last]:
        if stopped or _orphaned():
            run.save()
            raise KeyboardInterrupt
        losses.append(run.learn(drawer.batch(indices, run.step)))
        rate = len(losses) * run.config.batch / (time.monotonic() - began)
        yield run.tick(float(np.mean(losses[-50:])), rate)
    run.history.append(
        {"epoch": epoch + 1, "loss": float(np.mean(losses)), "images_per_second": round(rate, 1)}
    )


def _finish_epoch(run: TrainingRun, validation: tuple[Tensor, Tensor]) -> Tick:
    images, labels = validation
    logits = _predict_member(run.average.module, images)
    entry = run.history[-1]
    entry["validation_loss"] = float(functional.binary_cross_entropy_with_logits(logits, labels.float()))
    entry["validation_auc"] = float(roc_auc_score(labels.numpy(), logits.numpy()))
    run.save()
    return run.tick(entry["loss"], entry["images_per_second"], entry)


@torch.inference_mode()
def _predict_member(member: torch.nn.Module, images: Tensor) -> Tensor:
    """Return the averaged member's pneumonia logits, [N], on the CPU."""
    member.eval()
    device = next(member.parameters()).device
    return torch.cat([member(batch.to(device))[:, 0].mean((1, 2)).cpu() for batch in images.split(64)])


def served_input(pixels: Tensor, size: int) -> Tensor:
    """Turn 8-bit gray, [N, 1, H, W], into the network's input, [N, 1, size, size], without augmentation."""
    return normalised(v2.functional.resize(pixels, [size, size], antialias=True))


def validation_tensor(samples: list[Sample], size: int) -> tuple[Tensor, Tensor]:
    """Return samples as the network's input, [N, 1, size, size], and labels, [N], without augmentation."""
    pixels = torch.from_numpy(load_pixels(samples))[:, None]
    return served_input(pixels, size), torch.tensor([sample.label for sample in samples])


def rate_at(done: float) -> float:
    """Return the share of the peak learning rate after `done` of the run (0 to 1)."""
    warm = 0.1
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))


def _parameter_groups(network: Member, decay: float) -> list[dict[str, Any]]:
    """Apply weight decay to the weights of convolutions and the head, not to biases and norms."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _orphaned() -> bool:
    """Return whether the parent process is gone, in which case another process may resume the run."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """Yield a list that collects stop signals, so that the loop ends between two steps."""
    stopped: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda received, _: stopped.append(received)) for number in signals]
    try:
        yield stopped
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
