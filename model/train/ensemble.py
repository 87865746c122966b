"""Training the network: its members side by side, each in a process of its own, and then what they share."""

import json
import multiprocessing
import os
import queue
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.data import Sample, load_pixels, load_samples
from model.decode import decode
from model.populations import find_populations
from model.preprocess import network_input
from model.train.member import AVERAGED, Tick, TrainConfig, served_input, train_member
from model.train.network import Network
from model.train.outside import as_copy, changed
from pipeline.errors import CxrError, UsageError

_POLL = 1.0  # seconds between two looks at the processes
_CHILDREN = 1200  # of the training images, to compare other populations with
_MAX_PIXELS = 50_000_000


def train(data: Path, out: Path, config: TrainConfig, console: Console, outside: Path | None = None) -> Path:
    """Train on `data` (see `model.data`), in the folder `out`; returns the path of `network.safetensors`.

    `outside` holds images of other populations, see `model.populations`; without any, none is recognised.

    Ctrl-C or SIGTERM saves and raises KeyboardInterrupt; the same call goes on from there.
    """
    samples = load_samples(data)
    learned = [sample for sample in samples if sample.fold == "train"]
    held_out = sum(sample.fold == "validation" for sample in samples)
    if len(learned) < config.batch:
        raise UsageError(
            f"too few patients: the fold `train` has {len(learned)} images, not {config.batch}; add images"
        )
    if not held_out:
        raise UsageError("too few patients: the fold `validation` has none, to calibrate on; add images")
    console.print(
        f"{len(learned)} images to train {config.network.members} members on, {held_out} to validate"
    )
    _train_members(samples, out, config, console)
    strangers = (
        [path for images in find_populations(outside).values() for path, _ in images] if outside else []
    )
    return _save_network(assemble(learned, out, config, strangers), out, config)


def _train_members(samples: list[Sample], out: Path, config: TrainConfig, console: Console) -> None:
    """One process a member: single threads side by side leave no core waiting for another."""
    context = multiprocessing.get_context("spawn")
    ticks: Queue[Tick | CxrError] = context.Queue()
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(samples, _folder(out, index), config, index, ticks), daemon=True)
        for index in range(config.network.members)
    ]
    with _forwarded(processes) as stopped:
        for process in processes:
            if not stopped:
                process.start()
        _show(ticks, processes, config, console)
    if stopped:
        raise KeyboardInterrupt
    if any(process.exitcode for process in processes):
        raise CxrError("a member's training ended early; the same command goes on from where it stopped")


def _work(
    samples: list[Sample], out: Path, config: TrainConfig, index: int, ticks: "Queue[Tick | CxrError]"
) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.network.members))
    try:
        for tick in train_member(samples, out, config, index):
            ticks.put(tick)
    except CxrError as error:
        ticks.put(error)
    except KeyboardInterrupt:
        raise SystemExit(1) from None


def _show(
    ticks: "Queue[Tick | CxrError]", processes: list[BaseProcess], config: TrainConfig, console: Console
) -> None:
    """Show how far the members are, until all their processes have ended."""
    with _progress(console) as progress:
        bars = [
            progress.add_task(f"member {index + 1}", total=None, loss=0.0, rate=0.0)
            for index in range(len(processes))
        ]
        for tick in _received(ticks, processes):
            bar = bars[tick.member]
            progress.update(bar, completed=tick.step, total=tick.last_step, loss=tick.loss, rate=tick.rate)
            if tick.epoch:
                console.print(_line(tick, config))


def _received(ticks: "Queue[Tick | CxrError]", processes: list[BaseProcess]) -> Iterator[Tick]:
    while True:
        running = any(process.is_alive() for process in processes)
        try:
            tick = ticks.get(timeout=_POLL)
        except queue.Empty:
            if not running:
                return
            if any(process.exitcode for process in processes):
                _end(processes)  # one was stopped or died: the others save and end
            continue
        if isinstance(tick, CxrError):
            _end(processes)
            raise tick
        yield tick


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.terminate()


def _line(tick: Tick, config: TrainConfig) -> str:
    assert tick.epoch is not None
    epoch = tick.epoch
    left = (tick.last_step - tick.step) * config.batch / tick.rate / 60
    return (
        f"member {tick.member + 1}  epoch {epoch['epoch']:2}/{config.epochs}  loss {epoch['loss']:.4f}  "
        f"validation: loss {epoch['validation_loss']:.4f}, AUC {epoch['validation_auc']:.4f}  "
        f"{tick.rate:.0f} images/s, {left:.0f} min left at this rate"
    )


def assemble(samples: list[Sample], out: Path, config: TrainConfig, strangers: Sequence[Path]) -> Network:
    """The network of the finished members in `out`, with what is fitted to the images as they are served.

    `strangers` are images of other populations.
    """
    network = Network(config.network)
    for index, member in enumerate(network.members):
        member.load_state_dict(load_file(_folder(out, index) / AVERAGED))
    _round(network)
    pixels = torch.from_numpy(load_pixels(samples))[:, None]
    for member in network.members:
        settle_statistics(member, pixels, config.network.size)
    fit_typicality(network, pixels, torch.tensor([sample.label for sample in samples]))
    if strangers:
        fit_outside(network, pixels, strangers)
    _round(network)
    return network


def _is_heavy(name: str, value: Tensor) -> bool:
    """What makes the file large is stored in 16 bits: convolutions, and the whitening of typicality."""
    return value.ndim == 4 or name.endswith("whitening")


def _round(network: nn.Module) -> None:
    """Round in place what is stored in 16 bits, so that the file says what the network does."""
    for name, value in network.state_dict().items():
        if _is_heavy(name, value):
            value.copy_(value.half())


@torch.no_grad()
def settle_statistics(member: nn.Module, pixels: Tensor, size: int) -> None:
    """Estimate the batch norms' statistics anew on images as they will be served, without augmentation.

    Those of training are of augmented images, and shift every logit (Touvron et al. 2019, arXiv:1906.06423).
    """
    member.eval()
    norms = [module for module in member.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all that comes
        norm.train()
    shuffled = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
    for batch in shuffled.split(64):
        member(served_input(batch, size))
    member.eval()


@torch.inference_mode()
def fit_typicality(network: Network, pixels: Tensor, labels: Tensor) -> None:
    """Learn from the training images, as they are served, what is typical of them."""
    network.eval()
    batches = (served_input(batch, network.config.size) for batch in pixels.split(64))
    network.typicality.fit(torch.cat([network.pooled(batch) for batch in batches]), labels)


@torch.inference_mode()
def fit_outside(network: Network, pixels: Tensor, strangers: Sequence[Path]) -> None:
    """Learn from training images and from others who is of another population.

    Both as they are and changed alike, so that how an image was made tells nothing.
    """
    network.eval()
    chance = np.random.default_rng(0)
    known = chance.permutation(len(pixels))[:_CHILDREN]
    children = [Image.fromarray(pixels[index, 0].numpy()) for index in known]
    others = [as_copy(decode(path.read_bytes(), _MAX_PIXELS)[0], chance) for path in strangers]
    network.outside.fit(*(_views(network, images, chance) for images in (children, others)))


def _views(network: Network, images: list[Image.Image], chance: np.random.Generator) -> Tensor:
    """The features of images, and of twice as many changed ones."""
    seen = []
    for view in chain(images, *(changed(images, chance) for _ in range(2))):
        seen.append(network.pooled(torch.from_numpy(network_input(view, network.config.size))))
    return torch.cat(seen)


@torch.inference_mode()
def predict(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, 2] and distances [N] of the network in evaluation mode."""
    network.eval()
    outputs = [network(batch) for batch in images.split(64)]
    return torch.cat([out.logits for out in outputs]), torch.cat([out.distance for out in outputs])


def _save_network(network: Network, out: Path, config: TrainConfig) -> Path:
    path = out / "network.safetensors"
    weights = {
        name: (value.half() if _is_heavy(name, value) else value).contiguous()
        for name, value in network.state_dict().items()
    }
    histories = [_history(_folder(out, index) / AVERAGED) for index in range(config.network.members)]
    save_file(weights, path, {"config": json.dumps(asdict(config)), "history": json.dumps(histories)})
    return path


def _history(path: Path) -> list[dict[str, float]]:
    with safe_open(path, "pt") as file:
        history: list[dict[str, float]] = json.loads(file.metadata()["history"])
        return history


def _folder(out: Path, index: int) -> Path:
    return out / f"member-{index + 1}"


@contextmanager
def _forwarded(processes: list[BaseProcess]) -> Iterator[list[int]]:
    """Pass the wish to stop on to the processes, which save; a list that fills when there was one."""
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        _end(processes)

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield stopped
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _progress(console: Console) -> Progress:
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
    figures = TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} images/s")
    return Progress(*columns, figures, TimeRemainingColumn(), console=console, transient=True)
