"""Measure what SSH costs: a warm batch of 32 through a real SSH server to `cxr worker`, and the same batch
here.

Run with `python -m bench.ssh`; needs OpenSSH's server. Both judge the same X-rays of a folder, in turn.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.images import SAMPLES
from ec2_runner.reach.remote import RemoteHost
from ec2_runner.reach.route import SshRoute
from handlers.wiring import make_worker
from pipeline.ports import Host
from pipeline.records import Job
from pipeline.settings import Settings
from pipeline.store.folder import FolderStore
from pipeline.verdict import Release
from tests.support.machines import USER, Sshd, Supervised, free_port

BATCH, ROUNDS = 32, 40


@dataclass(frozen=True)
class Ssh:
    """Hold milliseconds per batch."""

    medians_ms: dict[str, float]
    cost_ms: float  # of SSH: the median of the differences


def measure(rounds: int = ROUNDS) -> Ssh:
    """Measure both ways in turn."""
    with TemporaryDirectory() as folder:
        times = _times(Path(folder), rounds)
    pairs = zip(times["through SSH"], times["in this process"], strict=True)
    more = statistics.median(far - near for far, near in pairs)
    return Ssh({name: statistics.median(taken) for name, taken in times.items()}, more)


def main() -> None:
    """Print the median of each way, and the difference."""
    seen = measure()
    for name, median in seen.medians_ms.items():
        print(f"{BATCH} X-rays {name}: median {median:.1f} ms")  # noqa: T201
    print(f"SSH costs {seen.cost_ms:.1f} ms a batch (median of {ROUNDS} pairs)")  # noqa: T201


def _times(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Set both up in a folder, and time them."""
    root, port = folder / "data", free_port()
    settings = Settings(root=root, worker_port=port, ssh_key=folder / "id")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "id"], check=True)
    store = FolderStore(root)
    for number, path in enumerate(islice(cycle(sorted(SAMPLES.glob("*.jpeg"))), BATCH)):
        shutil.copy(path, root / "inbox" / f"{number}.jpeg")
    sshd = Sshd(folder / "sshd", port)
    sshd.authorized.write_text((folder / "id.pub").read_text())
    env = {**os.environ, "CXR_ROOT": str(root), "CXR_WORKER_PORT": str(port)}
    worker = Supervised([sys.executable, "-m", "cxr", "worker"], port, folder / "worker.log", env)
    far = settings.model_copy(update={"ssh": f"{USER}@127.0.0.1:{sshd.port}", "ssh_host_key": sshd.host_key})
    try:
        hosts: dict[str, Host] = {
            "in this process": make_worker(store, settings, Release()),
            "through SSH": RemoteHost(SshRoute(far), port, Release()),
        }
        times: dict[str, list[float]] = {name: [] for name in hosts}
        for number in range(rounds + 1):
            for name, host in hosts.items():
                taken = run(host, root)
                if number:  # the first is the warm-up
                    times[name].append(taken)
    finally:
        worker.stop()
        sshd.stop()
    return times


def run(host: Host, root: Path) -> float:
    """Judge the whole inbox again; return the milliseconds."""
    shutil.rmtree(root / "outbox")
    (root / "outbox").mkdir()
    jobs = [Job(f"inbox/{number}.jpeg") for number in range(BATCH)]
    clock = time.perf_counter()
    results = {outcome.result for outcome in host.run(jobs)}
    assert results == {"classified"}, results
    return (time.perf_counter() - clock) * 1000


if __name__ == "__main__":
    main()
