"""Run real parts on the loopback for the AWS tests: SSH server, supervised worker, moto, Lambda emulator."""

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
USER = getpass.getuser()
ACCESS_KEY, SECRET = "AKIATESTTESTTESTTEST", "a secret of the tests"
REGION = "us-east-1"


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that is not in use now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float = 20, what: str = "") -> None:
    """Wait until the condition holds; raise AssertionError if it does not in time.

    It is looked at less and less often: a look may ask a process, and wait for one of the few cores.
    """
    deadline, pause = time.monotonic() + seconds, 0.01
    while not condition():
        assert time.monotonic() < deadline, f"{what or condition} did not come true in {seconds} s"
        time.sleep(pause)
        pause = min(1.3 * pause, 0.15)


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Return whether anything listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


class Process:
    """Run a process of the tests, with its output in a file; it is ended with all its children."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(env) if env is not None else None,
                cwd=ROOT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal to the process and its children, wait, and return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        return self._process.wait(20)

    def suspend(self) -> None:
        """Make the process hang."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process continue."""
        os.killpg(self.pid, signal.SIGCONT)

    def exit_code(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """Return everything that it has written."""
        return self.log.read_text(errors="replace")

    def wait_until_listening(self, port: int, address: str, what: str, seconds: float = 20) -> None:
        """Wait until it listens; otherwise end it, and raise AssertionError with what it has written."""
        try:
            wait_for(lambda: listens(port, address) or self.exit_code() is not None, seconds)
            assert self.exit_code() is None
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{what} did not start:\n{self.output()[-3000:]}") from error


class Sshd:
    """Run OpenSSH's server with its own host key, on the loopback; it forwards to one port only."""

    def __init__(self, folder: Path, forward: int, address: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.address, self.port = folder, address, free_port(address)
        self.authorized = folder / "authorized_keys"
        self.authorized.touch()
        key = folder / "host_key"
        if not key.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True, timeout=20
            )
        self.host_key = key.with_suffix(".pub").read_text().strip()
        (folder / "sshd_config").write_text(
            f"ListenAddress {address}\nPort {self.port}\nHostKey {key}\nPidFile none\nUsePAM no\n"
            f"StrictModes no\nAuthorizedKeysFile {self.authorized}\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n"
            f"MaxStartups 100\nAllowTcpForwarding local\nPermitOpen 127.0.0.1:{forward}\nPermitTTY no\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        """Start it again on the same port."""
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.process = Process(command, self.folder / "sshd.log")
        self.process.wait_until_listening(self.port, self.address, "sshd")

    def stop(self) -> None:
        """Stop it and all its connections."""
        sessions = descendants(self.process.pid)  # they have left its process group
        self.process.kill()
        for session in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True, text=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


class Supervised:
    """Restart a worker when it ends, as systemd does."""

    def __init__(self, command: list[str], port: int, log: Path, env: Mapping[str, str]) -> None:
        self._command, self.port, self._log, self._env = command, port, log, env
        self.starts = 0
        self.exit_codes: list[int] = []
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        wait_for(lambda: listens(port), what="the worker")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the current worker; another one follows."""
        with self._guard:
            self.process.kill(number)

    def stop(self) -> None:
        """Stop it permanently."""
        self._stopped.set()
        self.kill()
        self._thread.join(20)

    def output(self) -> str:
        """Return the output of all workers."""
        return self._log.read_text(errors="replace")

    def _keep(self) -> None:
        while not self._stopped.is_set():
            with self._guard:
                self.process = Process(self._command, self._log, self._env)
                self.starts += 1
            while (code := self.process.exit_code()) is None:
                time.sleep(0.02)
            self.exit_codes.append(code)
            self._stopped.wait(0.2)


class Moto:
    """Run moto's server in its own process."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        port = free_port(address)
        self.url = f"http://{address}:{port}"
        command = [sys.executable, "-m", "tests.support.moto_main", "-H", address, "-p", str(port)]
        images = {"MOTO_AMIS_PATH": str(ROOT / "tests" / "support" / "amis.json")}  # a few are read at once
        self.process = Process(command, folder / "moto.log", {**os.environ, **images})
        self.process.wait_until_listening(port, address, "moto")

    def reset(self) -> None:
        """Forget everything."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=20).close()

    def stop(self) -> None:
        """Stop it."""
        self.process.kill()


class Lambda:
    """Run a handler under the Lambda runtime and its emulator, as AWS does."""

    def __init__(self, emulator: Path, handler: str, env: Mapping[str, str], log: Path, seconds: int) -> None:
        self._ports = free_port(), free_port()
        addresses = [f"127.0.0.1:{port}" for port in self._ports]
        command = [
            str(emulator),
            *("--runtime-interface-emulator-address", addresses[0]),
            *("--runtime-api-address", addresses[1]),
            *(sys.executable, "-m", "awslambdaric", handler),
        ]
        self._url = f"http://{addresses[0]}/2015-03-31/functions/function/invocations"
        limits = {"AWS_LAMBDA_FUNCTION_TIMEOUT": str(seconds), "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512"}
        self.process = Process(command, log, {**env, **limits})
        wait_for(lambda: listens(self._ports[0]), what="the emulator")

    def invoke(self, event: Mapping[str, Any], seconds: float = 150) -> dict[str, Any]:
        """Return the handler's answer; raise InvocationFailed if it raised or ran out of time."""
        body = json.dumps(event).encode()
        with urllib.request.urlopen(self._url, body, timeout=seconds) as response:
            text = response.read().decode()
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise InvocationFailed(text) from error
        if isinstance(answer, dict) and "errorMessage" in answer:
            raise InvocationFailed(answer["errorMessage"])
        assert isinstance(answer, dict)
        return answer

    def stop(self) -> None:
        """Stop it."""
        self.process.kill()


class InvocationFailed(Exception):
    """Report a failure as Lambda reports that of a function."""


@contextmanager
def stopped_at_end(*parts: Any) -> Iterator[None]:
    """Stop the parts at the end, last first, whatever happens."""
    try:
        yield
    finally:
        for part in reversed(parts):
            part.stop()


def aws_environment(moto: Moto, **urls: str) -> dict[str, str]:
    """Return an environment in which moto is AWS, except for services whose addresses are given."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": moto.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        **{f"AWS_ENDPOINT_URL_{name}": url for name, url in urls.items()},
    }
