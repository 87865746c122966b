"""Training, top to bottom: one seed and one command make the shipped weights.

A run is a folder. It holds `state.pt` (everything that is needed to go on after a kill), and at the end
`network.safetensors`, the averaged weights with their configuration.
"""

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from model.augment import Augment, standardise
from model.data import Sample, load_pixels, load_samples
from model.network import Network, NetworkConfig
from model.vision import v2
from pipeline.errors import UsageError


@dataclass(frozen=True)
class TrainConfig:
    """The recipe."""

    epochs: int = 30
    batch: int = 32
    rate: float = 2e-3  # AdamW's peak, reached after a tenth of the run, then down a cosine to zero
    weight_decay: float = 0.05
    smoothing: float = 0.05  # of the labels: some of them are wrong, and confidence is to be earned
    viral_weight: float = 0.2  # of the auxiliary bacterial-or-viral loss
    averaging: float = 0.998  # decay of the exponential moving average of the weights, which is what ships
    seed: int = 1
    network: NetworkConfig = field(default_factory=NetworkConfig)


class Run:
    """One training run in its folder; made again on the same folder, it goes on where it stopped."""

    def __init__(self, samples: list[Sample], out: Path, config: TrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config, self.out = config, out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.train = [sample for sample in samples if sample.fold == "train"]
        self.validation = [sample for sample in samples if sample.fold == "validation"]
        if not self.train or not self.validation:
            raise UsageError("too few patients to hold some back for validation; add images")
        self.network = Network(config.network).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(config.averaging), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.network, config.weight_decay), lr=config.rate, fused=True
        )
        self.step = 0  # batches done since the beginning of the run
        self.steps_per_epoch = len(self.train) // config.batch
        self.history: list[dict[str, float]] = []

    @property
    def last_step(self) -> int:
        return self.steps_per_epoch * self.config.epochs

    def save(self) -> None:
        """Write the state beside the old one and swap them: a kill leaves a whole file."""
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
        """Take up the state of an earlier process, if there is one; UsageError when it has another recipe."""
        path = self.out / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["config"] != json.dumps(asdict(self.config)):
            raise UsageError(f"{self.out} holds a run with other settings; name another --out")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history = state["step"], json.loads(state["history"])
        return True

    def learn(self, images: Tensor, labels: Tensor, viral: Tensor) -> float:
        """One step of gradient descent on a batch: [N, 1, size, size], [N], [N] (-1 where not known)."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * rate_at(self.step / self.last_step)
        logits = self.network(images.to(self.device, memory_format=torch.channels_last)).logits
        loss = self._loss(logits, labels.to(self.device), viral.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return float(loss.detach())

    def _loss(self, logits: Tensor, labels: Tensor, viral: Tensor) -> Tensor:
        smooth = labels.float() * (1 - self.config.smoothing) + self.config.smoothing / 2
        loss = functional.binary_cross_entropy_with_logits(logits[:, 0], smooth)
        known = viral >= 0
        if known.any():
            pattern = functional.binary_cross_entropy_with_logits(logits[known, 1], viral[known].float())
            loss = loss + self.config.viral_weight * pattern
        return loss


def train(data: Path, out: Path, config: TrainConfig, console: Console) -> Path:
    """Train on `data` (see `model.data`), in the folder `out`; returns the path of `network.safetensors`.

    Ctrl-C or SIGTERM saves and raises KeyboardInterrupt; the same call goes on from there.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = Run(load_samples(data), out, config)
    console.print(
        f"{len(run.train)} images to train on, {len(run.validation)} to validate, on {run.device.type}"
    )
    if run.resume():
        console.print(f"going on after step {run.step} of {run.last_step}")
    pixels = torch.from_numpy(load_pixels(run.train))[:, None]
    held_out = validation_tensor(run.validation, config.network.size)
    with _stop_signal() as stopped, _progress(console) as progress:
        bar = progress.add_task("training", total=run.last_step, completed=run.step, loss=math.nan, rate=0.0)
        while run.step < run.last_step:
            _epoch(run, pixels, progress, bar, stopped)
            _finish_epoch(run, held_out, console)
    network = run.average.module
    assert isinstance(network, Network)
    settle_statistics(network, pixels)
    fit_typicality(network, pixels, torch.tensor([sample.label for sample in run.train]))
    return _save_network(run)


def _epoch(run: Run, pixels: Tensor, progress: Progress, bar: TaskID, stopped: list[int]) -> None:
    """From where the run stands to the end of the epoch.

    Every draw hangs on (seed, step) alone, so that a run that was interrupted ends as one that was not.
    """
    epoch, first = divmod(run.step, run.steps_per_epoch)
    order = torch.from_numpy(np.random.default_rng([run.config.seed, epoch]).permutation(len(run.train)))
    augment = Augment(run.config.network.size)
    losses, began = [], time.monotonic()
    for indices in order.split(run.config.batch)[first : run.steps_per_epoch]:
        if stopped:
            run.save()
            raise KeyboardInterrupt
        torch.manual_seed(run.config.seed * 1_000_003 + run.step)
        batch = [run.train[index] for index in indices]
        images = torch.stack([augment(pixels[index]) for index in indices])
        labels = torch.tensor([sample.label for sample in batch])
        losses.append(run.learn(images, labels, torch.tensor([sample.viral for sample in batch])))
        rate = len(losses) * run.config.batch / (time.monotonic() - began)
        progress.update(bar, completed=run.step, loss=float(np.mean(losses[-50:])), rate=rate)
    run.history.append(
        {"epoch": epoch + 1, "loss": float(np.mean(losses)), "images_per_second": round(rate, 1)}
    )


def _finish_epoch(run: Run, held_out: tuple[Tensor, Tensor], console: Console) -> None:
    images, labels = held_out
    logits = predict(run.average.module, images)[0][:, 0]
    entry = run.history[-1]
    entry["validation_loss"] = float(functional.binary_cross_entropy_with_logits(logits, labels.float()))
    entry["validation_auc"] = float(roc_auc_score(labels.numpy(), logits.numpy()))
    run.save()
    left = (run.last_step - run.step) * run.config.batch / entry["images_per_second"] / 60
    console.print(
        f"epoch {entry['epoch']:2}/{run.config.epochs}  loss {entry['loss']:.4f}  "
        f"validation: loss {entry['validation_loss']:.4f}, AUC {entry['validation_auc']:.4f}  "
        f"{entry['images_per_second']:.0f} images/s, {left:.0f} min left"
    )


def settle_statistics(network: Network, pixels: Tensor) -> None:
    """Estimate the batch norms' statistics anew on images as they will be served, without augmentation.

    Those of training are of augmented images, and shift every logit (Touvron et al. 2019, arXiv:1906.06423).
    """
    torch.manual_seed(0)
    batches = pixels[torch.randperm(len(pixels))].split(64)
    device = next(network.parameters()).device
    size = network.config.size
    update_bn((served_input(batch, size) for batch in batches), network, device)


@torch.inference_mode()
def fit_typicality(network: Network, pixels: Tensor, labels: Tensor) -> None:
    """Learn from the training images, as they are served, what is typical of them."""
    network.eval()
    device = next(network.parameters()).device
    batches = (served_input(batch, network.config.size).to(device) for batch in pixels.split(64))
    network.typicality.fit(torch.cat([network.pooled(batch).cpu() for batch in batches]), labels)


def served_input(pixels: Tensor, size: int) -> Tensor:
    """8-bit gray, [N, 1, H, W], as the network's input, [N, 1, size, size]; no augmentation."""
    return standardise(v2.functional.resize(pixels, [size, size], antialias=True).float())


def validation_tensor(samples: list[Sample], size: int) -> tuple[Tensor, Tensor]:
    """Samples as the network's input, [N, 1, size, size], and labels, [N]; no augmentation."""
    pixels = torch.from_numpy(load_pixels(samples))[:, None]
    return served_input(pixels, size), torch.tensor([sample.label for sample in samples])


@torch.inference_mode()
def predict(network: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, 2] and distances [N] of the network in evaluation mode, on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    outputs = [network(batch.to(device)) for batch in images.split(64)]
    return torch.cat([out.logits.cpu() for out in outputs]), torch.cat(
        [out.distance.cpu() for out in outputs]
    )


def rate_at(done: float) -> float:
    """The share of the peak learning rate when `done` of the run (0 to 1) is over."""
    warm = 0.1
    return done / warm if done < warm else 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))


def _parameter_groups(network: Network, decay: float) -> list[dict[str, Any]]:
    """Decay the weights of convolutions and of the head; biases and norms stay free."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _save_network(run: Run) -> Path:
    path = run.out / "network.safetensors"
    weights = {name: tensor.contiguous().cpu() for name, tensor in run.average.module.state_dict().items()}
    save_file(weights, path, {"config": json.dumps(asdict(run.config)), "history": json.dumps(run.history)})
    return path


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop, so that the loop ends between two steps."""
    stopped: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda received, _: stopped.append(received)) for number in signals]
    try:
        yield stopped
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _progress(console: Console) -> Progress:
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
    figures = TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} images/s")
    return Progress(*columns, figures, TimeRemainingColumn(), console=console, transient=True)
