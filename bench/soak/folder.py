"""Soak `cxr up` over a folder, with its DICOM node, a PACS for its results, and a receiver of notices."""

import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from pydicom import dcmread

from bench.soak import faults
from bench.soak.checker import Checked, Folder, check, holding
from bench.soak.load import PATIENT, Images, Load
from bench.soak.run import STOPPING, Fault, Soaked, alive, soak
from tests.support.dicom_senders import Raw, send
from tests.support.machines import descendants, free_port, wait_for
from tests.support.orthanc import IS_INSTALLED, Orthanc
from tests.support.receiver import SECRET, receiving

_DISK = 1_500_000_000  # bytes of the disk in memory
_SECONDS = (0.2, 1.5)  # that a fault lasts
_PAUSE_SECONDS = 0.2  # between two faults
_QUIET_SECONDS = 2400.0  # until everything is judged, sent and told


class _Inbox:
    """Drop objects as people and programs do."""

    def __init__(self, root: Path) -> None:
        self._inbox, self._staging = root / "inbox", root / "staging"

    def write(self, name: str, data: bytes) -> None:
        """Move a whole file into place."""
        whole, path = self._staging / "one", self._inbox / name
        whole.write_bytes(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.rename(path)

    def write_slowly(self, name: str, data: bytes) -> None:
        """Write in place, with pauses."""
        path = self._inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as file:
            for part in (data[: len(data) // 3], data[len(data) // 3 :]):
                if file.write(part) < len(part):  # a full disk takes what fits, without an error
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                time.sleep(0.3)

    def delete(self, name: str) -> None:
        """Delete a file; FileNotFoundError where the inbox has been taken away, and may come back with it."""
        (self._inbox / name).unlink()


class _Sender:
    """Send DICOM objects to the node, and note which it said that it has."""

    def __init__(self, port: int, images: Images) -> None:
        self._port, self._images = port, images
        self.taken: list[str] = []

    def send(self) -> None:
        """Send a new object."""
        self._send(*self._images.dicom())

    def send_twice(self) -> None:
        """Send a new object, and the same once more."""
        instance, data = self._images.dicom()
        self._send(instance, data)
        self._send(instance, data)

    def _send(self, instance: str, data: bytes) -> None:
        """Send it again and again, as modalities do, until the node has taken it."""
        for _ in range(40):
            with suppress(OSError):
                if send(self._port, data) == [0]:
                    self.taken.append(instance)
                    return
            time.sleep(0.5)
        raise TimeoutError


def run(seconds: float, seed: int, rate: float, folder: Path) -> Soaked:
    """Soak the path for so many seconds; `rate` objects a second."""
    chance = random.Random(f"{seed} folder")
    images, port = Images(chance), free_port()
    temporary = folder / "tmp"
    temporary.mkdir()
    ours = {"AET": "CXR-INBOX", "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True}
    pacs = Orthanc(folder / "pacs", {"cxr": ours}) if IS_INSTALLED else None
    env = {"TMPDIR": str(temporary), "CONFIRM_SECONDS": "5", "CXR_LOG_LEVEL": "INFO"}
    with ExitStack() as parts:
        root, is_small = parts.enter_context(faults.disk(folder, _DISK))
        told = parts.enter_context(receiving())
        env["CXR_NOTIFY"] = json.dumps([{"name": "program", "to": told.url, "secret": SECRET}])
        if pacs:
            to = f"dicom://ORTHANC@127.0.0.1:{pacs.dicom_port}"
            # Only of what came by DICOM, as nothing else states an age: a result takes a second.
            rule = {"name": "PACS", "to": to, "warnings": ["age_outside_training"]}
            env["CXR_SEND"] = json.dumps([rule])
        up = faults.Up(root, "--dicom-port", str(port), **env)
        running = parts.enter_context(ExitStack())
        if pacs:
            running.enter_context(pacs.running())
        sender = _Sender(port, images)
        load = Load(_Inbox(root), images, chance, rate)
        load.add("sent by DICOM", 6, sender.send)
        load.add("sent twice by DICOM", 1, sender.send_twice)
        processes: set[tuple[int, str]] = set()
        deeds = _faults(up, pacs, running, port, processes, random.Random(f"{seed} damage"))
        if is_small:
            deeds.append(Fault("the disk full", 3, _lasting(up, faults.full_disk, chance)))
        try:
            soaked = soak(load, deeds, seconds, _PAUSE_SECONDS, random.Random(f"{seed} faults"))
            processes |= alive([up.process.pid, *descendants(up.process.pid)])
            soaked.settled, soaked.waiting = _settle(up, root)
            found = check(Folder(root), held=load.held)
            _check_rows(found, up, root)
            _check_dicom(found, root, sender.taken, pacs if pacs else None, up)
            _check_notices(found, root, told.notices, soaked)
        finally:
            up.stop()
        _check_leaks(found, up, folder, root, temporary, processes)
        soaked.checked = found
    return soaked


def _lasting(
    up: faults.Up, fault: Callable[[faults.Up, float], object], chance: random.Random
) -> Callable[[], None]:
    def cause() -> None:
        with fault(up, 0):  # type: ignore[attr-defined]
            time.sleep(chance.uniform(*_SECONDS))

    return cause


def _faults(
    up: faults.Up,
    pacs: Orthanc | None,
    running: ExitStack,
    port: int,
    processes: set[tuple[int, str]],
    chance: random.Random,
) -> list[Fault]:
    def any_judge() -> int:
        return chance.choice(descendants(up.process.pid))

    def kill_judge() -> None:
        os.kill(any_judge(), signal.SIGKILL)

    def halt_judge() -> None:
        one = any_judge()
        os.kill(one, signal.SIGSTOP)
        time.sleep(chance.uniform(*_SECONDS))
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGCONT)

    def kill_up() -> None:
        processes.update(alive([up.process.pid, *descendants(up.process.pid)]))
        os.kill(up.process.pid, signal.SIGKILL)  # its children have to notice by themselves
        wait_for(lambda: up.process.exit_code() is not None)
        time.sleep(chance.uniform(0, 0.5))
        up.start()

    def end_up() -> None:
        processes.update(alive([up.process.pid, *descendants(up.process.pid)]))
        up.stop()
        up.start()

    def halt_up() -> None:
        up.process.suspend()
        time.sleep(chance.uniform(*_SECONDS))
        up.process.resume()

    def take_inbox_away() -> None:
        inbox, away = up.root / "inbox", up.root / "away"
        inbox.rename(away)
        time.sleep(chance.uniform(*_SECONDS))
        others = []
        while away.exists():
            with suppress(FileNotFoundError):  # what was dropped meanwhile is in a folder of its own
                inbox.rename(other := up.root / f"other-{len(others)}")
                others.append(other)
            with suppress(OSError):
                away.rename(inbox)
        for other in others:
            for path in [path for path in other.rglob("*") if path.is_file()]:
                target = inbox / path.relative_to(other)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists() or target.stat().st_mtime_ns < path.stat().st_mtime_ns:
                    path.rename(target)  # otherwise it has been replaced since
            shutil.rmtree(other)

    def cut_association() -> None:
        with Raw(port) as peer:
            peer.request()
            if chance.random() < 0.7:
                peer.store()
                peer.fragment(0, bytes(chance.randrange(10_000)))

    def lock(name: str) -> Callable[[], None]:
        def cause() -> None:
            with closing(_opened(up.root / ".cxr" / name, "rw")) as database:
                database.execute("BEGIN EXCLUSIVE")
                time.sleep(chance.uniform(*_SECONDS))
                database.execute("ROLLBACK")

        return cause

    def lose_pacs() -> None:
        assert pacs
        running.close()
        time.sleep(chance.uniform(*_SECONDS))
        running.enter_context(pacs.running())

    found = [
        Fault("a judging process killed", 30, kill_judge),
        Fault("a judging process halted", 6, halt_judge),
        Fault("cxr up killed", 5, kill_up),
        Fault("cxr up ended and started", 2, end_up),
        Fault("cxr up halted", 3, halt_up),
        Fault("the worklist locked", 6, lock("index.sqlite")),
        Fault("the outgoing queue locked", 4, lock("outgoing.sqlite")),
        Fault("the worklist damaged", 3, _lasting(up, faults.damaged_index, chance)),
        Fault("the worklist deleted", 3, _lasting(up, faults.deleted_index, chance)),
        Fault("the watcher failing", 4, _lasting(up, faults.failing_watcher, chance)),
        Fault("the inbox taken away", 2, take_inbox_away),
        Fault("a DICOM association cut", 10, cut_association),
    ]
    return [*found, Fault("the PACS killed", 3, lose_pacs)] if pacs else found


def _settle(up: faults.Up, root: Path) -> tuple[float, str]:
    """Wait until nothing waits any more; return the seconds that this took, and what waits nevertheless."""
    began, why = time.monotonic(), "nothing looked at"
    while why and time.monotonic() < began + _QUIET_SECONDS and not STOPPING.is_set():
        time.sleep(1)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{up.port}/send-again", b"", timeout=20).close()
            why = _waiting(up, root)
        except (OSError, sqlite3.Error) as error:
            why = type(error).__name__
    return time.monotonic() - began, why


def _waiting(up: faults.Up, root: Path) -> str:
    """Return what is not done yet."""
    with closing(_opened(up.index, "ro")) as database:
        rows = database.execute(
            "SELECT key, status, at_work, source, waiting_since, started_at FROM rows"
            " WHERE waiting_since IS NOT NULL LIMIT 5"
        ).fetchall()
    if rows:
        return "; ".join(f"{row}, {'in' if (root / row[0]).exists() else 'not in'} the inbox" for row in rows)
    if _without_verdict(root):
        return "an object has no verdict"
    if unsent := _unsent(up):
        return f"unsent: {unsent}"
    return "" if up.health() == 200 else "the page is not healthy"


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=5, isolation_level=None)


def _without_verdict(root: Path) -> bool:
    """Return whether an object has no verdict, or an older one, going by the files' times alone."""
    for path in (root / "inbox").rglob("*"):
        if path.is_file() and not (root / "outbox" / f"{path.relative_to(root / 'inbox')}.json").exists():
            return True
    return False


def _unsent(up: faults.Up) -> str:
    """Return which results and notices are on their way."""
    with urllib.request.urlopen(f"http://127.0.0.1:{up.port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("cxr_outgoing{") and not line.endswith(" 0")]
    return ", ".join(line for line in found if 'state="waiting"' in line or 'state="sent"' in line)


def _check_rows(found: Checked, up: faults.Up, root: Path) -> None:
    """Compare the worklist with inbox and outbox."""
    query = "SELECT key, etag, verdict_key, verdict_etag, source FROM rows"
    with closing(_opened(up.index, "ro")) as database:
        rows = {row[0]: row[1:] for row in database.execute(query)}
    for key in Folder(root).keys("inbox/"):
        etag, verdict_key, verdict_etag, source = rows.pop(key, (None, None, None, None))
        if source is None:
            found.lost.append(f"row of {key}")
        elif (source, etag, verdict_etag) != ("present", _etag(root / key), _etag(root / verdict_key)):
            found.stale.append(f"row of {key}")
    found.stale += [f"row of {key}, which was deleted" for key, row in rows.items() if row[3] != "deleted"]


def _check_dicom(found: Checked, root: Path, taken: list[str], pacs: Orthanc | None, up: faults.Up) -> None:
    """Compare what the node said it has with the inbox, and the verdicts with what the PACS holds."""
    here: dict[str, Path] = {}
    for path in (root / "inbox").glob("*.dcm"):
        with suppress(Exception):  # others are named so, too
            if (one := dcmread(path, stop_before_pixels=True)).PatientID.startswith("Z"):
                if str(one.SOPInstanceUID) in here:
                    found.doubled.append(path.name)
                here[str(one.SOPInstanceUID)] = path
    found.lost += [one for one in set(taken) if one not in here]
    if pacs is None:
        return
    holds = Counter(pacs.kinds())
    for instance, path in here.items():
        study = instance.replace("1.2.77.", "1.2.55.")
        status = json.loads((root / "outbox" / f"{path.name}.json").read_bytes())["status"]
        for kind in ("OT", "SR") if status == "classified" else ():
            if not holds[study, kind]:
                found.lost.append(f"{kind} of {study}")
            if holds[study, kind] > 1:
                found.doubled.append(f"{kind} of {study}")


def _check_notices(found: Checked, root: Path, notices: list[dict[str, object]], soaked: Soaked) -> None:
    """Each verdict that stands has to be told, and under one id, however often."""
    ids: dict[str, set[str]] = defaultdict(set)
    for one in notices:
        data = one["data"]
        assert isinstance(data, dict)
        ids[f"{data['xray']} {data['verdict_etag']}"].add(str(data["id"]))
    found.doubled += [name for name, several in ids.items() if len(several) > 1]
    told = Counter(name.partition(" ")[2] for name in ids)
    etags = Counter(_etag(path) for path in (root / "outbox").rglob("*.json") if ".reviews" not in path.parts)
    found.lost += [f"notice of {etag}" for etag, count in etags.items() if told[etag] < count]
    soaked.more["notices received"] = len(notices)


def _etag(path: Path) -> str:
    import hashlib

    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _check_leaks(
    found: Checked,
    up: faults.Up,
    folder: Path,
    root: Path,
    temporary: Path,
    processes: set[tuple[int, str]],
) -> None:
    deadline = time.monotonic() + 20
    while (left := processes & alive([pid for pid, _ in processes])) and time.monotonic() < deadline:
        time.sleep(0.2)
    found.leaked += [f"process {pid}" for pid, _ in left]
    found.leaked += holding([PATIENT.encode(), b"Zaphod", b"1.2.77."], [up.log])
    found.leaked += [path.name for path in temporary.iterdir()]
    old = time.time() - 7200  # what a killed process left is removed after an hour
    waiting = root / ".cxr" / "tmp"
    for path in waiting.rglob("*"):
        os.utime(path, (old, old))
    up.start()
    with suppress(AssertionError):
        wait_for(lambda: not [path for path in waiting.rglob("*") if path.is_file()], 10)
    up.stop()
    found.leaked += [str(path.relative_to(root)) for path in waiting.rglob("*") if path.is_file()]
