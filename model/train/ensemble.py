"""Train the network: its members in parallel processes, then the parts that they share."""

import json
import multiprocessing
import os
import queue
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
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

from model.data import ERAS, Sample, load_pixels, load_samples
from model.evaluate.populations import find_populations
from model.serve.files.decode import decode
from model.serve.preprocess import as_copy, network_input
from model.train.heads import changed
from model.train.member import (
    AVERAGED,
    Tick,
    TrainConfig,
    TrainingJob,
    is_trained,
    served_input,
    train_member,
)
from model.train.network import Network, Output
from model.train.settle import fold_norms, settle_statistics
from model.train.witness import SAID, testify
from pipeline.errors import CxrError, UsageError

_WITNESSES = 100  # offset of their seeds from those of the members
_POLL = 1.0  # seconds between two checks of the processes
_BATCH = 64
_MAX_PIXELS = 50_000_000


def train_network(
    data: Path, out: Path, config: TrainConfig, console: Console, outside: Path | None = None
) -> Path:
    """Train on `data` (see `model.data`) in the folder `out`; return the path of `network.safetensors`.

    `outside` holds images of other populations (see `model.evaluate.populations`). Without it, the network
    recognises none of them. Ctrl-C or SIGTERM saves and raises KeyboardInterrupt; the same call resumes.
    """
    jobs = plan(load_samples(data), config)
    member = jobs[0]
    learned, held_out = len(member.learned), len(member.held_out)
    if learned < config.batch:
        raise UsageError(
            f"too few patients: the `train` fold has {learned} images and needs {config.batch}; add images"
        )
    if not held_out:
        raise UsageError("too few patients: the `validation` fold has no images to calibrate on; add images")
    console.print(
        f"{learned} images to train {config.network.members} members, {held_out} to validate;"
        f" {ERAS} witnesses, each judging an era that it has not seen"
    )
    _do(jobs, out, config, console)
    others = find_populations(outside) if outside else {}
    strangers = [path for images in others.values() for path, _ in images]
    return _save_network(assemble(member.learned, out, config, strangers), out, config)


def plan(samples: list[Sample], config: TrainConfig) -> list[TrainingJob]:
    """Plan the members and a witness of each era, whose answers about other years' films calibrate the
    members.

    No job sees the fold that reports.
    """
    folds = {fold: [sample for sample in samples if sample.fold == fold] for fold in ("train", "validation")}
    members = [
        TrainingJob(_name(index), folds["train"], folds["validation"], config.seed + index)
        for index in range(config.network.members)
    ]
    known = [sample for sample in samples if sample.fold != "report"]
    witnesses = [
        TrainingJob(
            f"witness-{era + 1}",
            [sample for sample in known if sample.era != era],
            [sample for sample in known if sample.era == era],
            config.seed + _WITNESSES + era,
            is_witness=True,
        )
        for era in range(ERAS)
    ]
    return members + witnesses


def _do(jobs: list[TrainingJob], out: Path, config: TrainConfig, console: Console) -> None:
    """Run each job in a process of its own, as many at a time as there are cores, since each loads torch."""
    jobs = [job for job in jobs if not _is_done(job, out / job.name, config)]
    context = multiprocessing.get_context("spawn")
    ticks: Queue[Tick | CxrError] = context.Queue()
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(job, out / job.name, config, ticks), daemon=True) for job in jobs
    ]
    with _forwarded(processes) as stopped:
        _show(ticks, jobs, processes, stopped, config, console)
    if stopped:
        raise KeyboardInterrupt
    if any(process.exitcode for process in processes):
        raise CxrError("a training process ended early; run the same command again to resume")


def _is_done(job: TrainingJob, out: Path, config: TrainConfig) -> bool:
    return is_trained(out, config) and (not job.is_witness or (out / SAID).is_file())


def _work(job: TrainingJob, out: Path, config: TrainConfig, ticks: "Queue[Tick | CxrError]") -> None:
    torch.set_num_threads(1)
    try:
        for tick in train_member(job, out, config):
            ticks.put(tick)
        if job.is_witness:
            testify(job, out, config)
    except CxrError as error:
        ticks.put(error)
    except KeyboardInterrupt:
        raise SystemExit(1) from None


def _show(
    ticks: "Queue[Tick | CxrError]",
    jobs: list[TrainingJob],
    processes: list[BaseProcess],
    stopped: list[int],
    config: TrainConfig,
    console: Console,
) -> None:
    """Start the processes as cores become free and show progress until all have ended."""
    with _progress(console) as progress:
        bars = {job.name: progress.add_task(job.name, total=None, loss=0.0, rate=0.0) for job in jobs}
        for tick in _received(ticks, processes, stopped):
            bar = bars[tick.job]
            progress.update(bar, completed=tick.step, total=tick.last_step, loss=tick.loss, rate=tick.rate)
            if tick.epoch:
                console.print(_line(tick, config))


def _received(
    ticks: "Queue[Tick | CxrError]", processes: list[BaseProcess], stopped: list[int]
) -> Iterator[Tick]:
    while True:
        _start_next(processes, stopped)
        running = any(process.is_alive() for process in processes)
        try:
            tick = ticks.get(timeout=_POLL)
        except queue.Empty:
            if not running:
                return
            if any(process.exitcode for process in processes):
                _end(processes)  # one was stopped or died, so the others save and end
            continue
        if isinstance(tick, CxrError):
            _end(processes)
            raise tick
        yield tick


def _start_next(processes: list[BaseProcess], stopped: list[int]) -> None:
    """Start as many processes as cores are free; start none after a request to stop or a failure."""
    running = sum(process.is_alive() for process in processes)
    for process in processes:
        if stopped or running >= (os.cpu_count() or 1) or any(other.exitcode for other in processes):
            return
        if process.pid is None:
            process.start()
            running += 1
            if stopped:  # a signal that came during the start did not reach it
                process.terminate()


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.terminate()


def _line(tick: Tick, config: TrainConfig) -> str:
    assert tick.epoch is not None
    epoch = tick.epoch
    left = (tick.last_step - tick.step) * config.batch / tick.rate / 60
    return (
        f"{tick.job}  epoch {epoch['epoch']:2}/{config.epochs}  loss {epoch['loss']:.4f}  "
        f"validation: loss {epoch['validation_loss']:.4f}, AUC {epoch['validation_auc']:.4f}  "
        f"{tick.rate:.0f} images/s, {left:.0f} min left at this rate"
    )


def assemble(samples: list[Sample], out: Path, config: TrainConfig, strangers: Sequence[Path]) -> Network:
    """Build the network from the finished members in `out`, with the parts that are fitted to images as
    served.

    `strangers` are images of other populations.
    """
    network = Network(config.network)
    for index, member in enumerate(network.members):
        member.load_state_dict(load_file(out / _name(index) / AVERAGED))
    pixels = torch.from_numpy(load_pixels(samples))[:, None]
    for member in network.members:
        settle_statistics(member, pixels, config.network.size)
    fold_norms(network)
    _round(network)
    fit_heads(network, pixels, torch.tensor([sample.label for sample in samples]), strangers)
    _round(network)
    return network


def _is_heavy(name: str, value: Tensor) -> bool:
    """Return whether a tensor makes the file large and is stored in 16 bits: convolutions and whitening."""
    return value.ndim == 4 or name.endswith("whitening")


def _round(network: nn.Module) -> None:
    """Round in place the tensors that are stored in 16 bits, so that the file matches the network exactly."""
    for name, value in network.state_dict().items():
        if _is_heavy(name, value):
            value.copy_(value.half())


@torch.inference_mode()
def fit_heads(network: Network, pixels: Tensor, labels: Tensor, strangers: Sequence[Path]) -> None:
    """Fit typicality to the training images, and the outside head to images of other populations.

    All are seen as they are served, with the same random changes, so that how an image was made reveals
    nothing.
    """
    network.eval()
    children = torch.cat([network.pooled(batch) for batch in views(pixels, 1, network.config.size)])
    network.typicality.fit(children, labels.repeat(2))
    if strangers:
        copies = [as_copy(decode(path.read_bytes(), _MAX_PIXELS)[0]) for path in strangers]
        adults = views(
            torch.from_numpy(np.stack([np.asarray(copy) for copy in copies]))[:, None], 2, network.config.size
        )
        seen = torch.cat([network.pooled(batch) for batch in adults])
        network.outside.fit(children, seen, network.typicality.whitening)


def views(pixels: Tensor, changes: int, size: int) -> Iterator[Tensor]:
    """Yield images, [N, 1, h, w] 8-bit, as they are served and then `changes` times changed; in small
    batches.
    """
    chance = np.random.default_rng(0)
    yield from (served_input(batch, size) for batch in pixels.split(_BATCH))
    for _ in range(changes):
        for batch in pixels.split(_BATCH):
            images = changed((Image.fromarray(image[0].numpy()) for image in batch), chance)
            yield torch.from_numpy(np.concatenate([network_input(image, size) for image in images]))


@torch.inference_mode()
def predict(network: Network, images: Tensor) -> Output:
    """Return the outputs of the network in evaluation mode."""
    network.eval()
    outputs = [network(batch) for batch in images.split(_BATCH)]
    return Output(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))


def _save_network(network: Network, out: Path, config: TrainConfig) -> Path:
    path = out / "network.safetensors"
    weights = {
        name: (value.half() if _is_heavy(name, value) else value).contiguous()
        for name, value in network.state_dict().items()
    }
    histories = [_history(out / _name(index) / AVERAGED) for index in range(config.network.members)]
    save_file(weights, path, {"config": json.dumps(asdict(config)), "history": json.dumps(histories)})
    return path


def _history(path: Path) -> list[dict[str, float]]:
    with safe_open(path, "pt") as file:
        history: list[dict[str, float]] = json.loads(file.metadata()["history"])
        return history


def _name(index: int) -> str:
    return f"member-{index + 1}"


@contextmanager
def _forwarded(processes: list[BaseProcess]) -> Iterator[list[int]]:
    """Forward stop signals to the processes, which save; yield a list that collects the signals."""
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
