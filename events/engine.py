"""Find a container engine, the image of Lambda's runtime, and this machine's address in containers."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.machines import ROOT, Process, wait_for

# The image that SAM itself would use, and one made here where no registry can be reached.
PUBLIC = "public.ecr.aws/lambda/python:{python}-{machine}"
OWN = "localhost/cxr-lambda-python{python}:{machine}"
DEBIAN = {"3.13": "trixie"}  # the release whose Python is Lambda's
_RUNTIME = """#!/bin/sh
export PYTHONPATH=/var/task:/var/runtime
cd /var/task && exec python3 -m awslambdaric "$_HANDLER"
"""
# Lambda's own limits. As root, podman otherwise asks for more than a machine may be allowed to give.
_LIMITS = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
_HOLD_SECONDS = 7200  # the holding container ends by itself if this process is killed
_ENGINES = ("docker", "podman")
# Run in a container: the names that Docker and podman, which also answers as Docker, give this machine there.
_LOOK = """
import contextlib, socket, sys
for name in ("host.docker.internal", "host.containers.internal"):
    with contextlib.suppress(OSError):
        print(socket.gethostbyname(name))
        sys.exit()
sys.exit("it knows no name of this machine")
"""


class CannotRun(Exception):
    """Report in one line what this machine lacks, or what was asked wrongly, and what to do."""


@dataclass
class Engine:
    """Run Docker's or podman's command line."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)  # for SAM to find it, too

    def run(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine to its end, whether or not it succeeds."""
        command, env = [self.name, *arguments], {**os.environ, **self.environment}
        try:
            return subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=seconds, check=False
            )
        except FileNotFoundError:
            return subprocess.CompletedProcess(command, 127, "", "not installed")
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer in {seconds:.0f} s")

    def problem(self) -> str | None:
        """Return why the engine cannot be used; None when it answers."""
        if self.name == "docker" and "podman" in self.run("--version").stdout:
            return "is podman's"
        done = self.run("info")
        return _reason(done) if done.returncode else None

    def image(self, python: str, machine: str, say: Callable[[str], None]) -> str:
        """Return the image of Lambda's runtime: one that is here, else fetched, else built."""
        public, own = (name.format(python=python, machine=machine) for name in (PUBLIC, OWN))
        for name in (public, own):
            if self.has(name):
                return name
        say(f"fetching {public} (once)")
        done = self.run("pull", "--quiet", public, seconds=900)
        if done.returncode == 0:
            return public
        obstacle = why_not_build()
        if obstacle:
            raise CannotRun(f"{public} cannot be fetched ({_reason(done)}), and not be built: {obstacle}")
        say("no registry answers: building the image from Debian's packages (minutes, once)")
        self._build(own, python, machine)
        return own

    def has(self, image: str) -> bool:
        """Return whether an image is on this machine."""
        return self.run("image", "inspect", image).returncode == 0

    def _build(self, name: str, python: str, machine: str) -> None:
        """Build an image of Debian's Python with Lambda's runtime client; needs root."""
        (ROOT / "build").mkdir(exist_ok=True)
        with TemporaryDirectory(dir=ROOT / "build", prefix="image-") as folder, ExitStack() as stack:
            root = Path(folder) / "root"
            stack.callback(_unmount, root)
            packages = "--include=python3,ca-certificates"
            options = ["--variant=minbase", "--force-check-gpg", packages]
            _do(["debootstrap", *options, DEBIAN[python], str(root), *_mirror()], 1800)
            runtime = root / "var" / "runtime"
            wheel = ["--only-binary=:all:", "--python-version", python]
            wheel += ["--platform", f"manylinux2014_{'aarch64' if machine == 'arm64' else machine}"]
            pip = [str(Path(sys.executable).parent / "pip"), "install", "--quiet"]
            constraints = ["--constraint", str(ROOT / "constraints.txt")]
            _do([*pip, *constraints, "--target", str(runtime), *wheel, "awslambdaric"], 600)
            (runtime / "bootstrap").write_text(_RUNTIME)
            (runtime / "bootstrap").chmod(0o755)
            (root / "var" / "task").mkdir()
            tar, left_out = Path(folder) / "image.tar", ("usr/share/doc", "var/cache", "var/lib/apt/lists")
            _do(
                ["tar", "-C", str(root), *(f"--exclude=./{path}" for path in left_out), "-cf", str(tar), "."],
                300,
            )
            done = self.run("import", "--change", "ENV LANG=C.UTF-8", str(tar), name, seconds=600)
        if done.returncode:
            raise CannotRun(f"{self.name} cannot import an image: {_reason(done)}")
        self.run("rmi", "--force", f"{name.split(':')[0]}:rapid-{machine}")  # SAM's, over an earlier one

    @contextmanager
    def ready(self, image: str) -> Iterator["Addresses"]:
        """Hold the engine's network up, and answer SAM, in a `with` block.

        A container sleeps meanwhile: without any, podman takes the network's bridge away, and with it the
        address to listen on.
        """
        name = f"cxr-{secrets.token_hex(4)}"
        with TemporaryDirectory(prefix="cxr-") as folder, ExitStack() as stack:
            stack.callback(self.environment.clear)
            stack.callback(self.run, "rm", "--force", name)
            self._hold(name, image, Path(folder))
            addresses = self._addresses(name)
            self._let_sam_find(Path(folder), stack)
            yield addresses

    def _hold(self, name: str, image: str, folder: Path) -> None:
        gateway = ["--add-host", "host.docker.internal:host-gateway"] if self.name == "docker" else []
        sleep = f"import time; time.sleep({_HOLD_SECONDS})"
        options = ["--detach", "--rm", "--name", name, "--stop-timeout", "0", *gateway]
        command = ["run", *options, "--entrypoint", "python3", image, "-c", sleep]
        done = self.run(*command)
        if self.name == "podman" and done.returncode and "rlimit" in done.stderr:
            self.run("rm", "--force", name)
            limits = folder / "containers.conf"
            limits.write_text(_LIMITS)
            self.environment["CONTAINERS_CONF"] = str(limits)
            done = self.run(*command)
        if done.returncode:
            raise CannotRun(f"{self.name} cannot start a container: {_reason(done)}")

    def _addresses(self, name: str) -> "Addresses":
        """Find out how containers reach this machine, by letting one do it.

        The address is a number, because boto3 would put the bucket's name before a host name.
        """
        done = self.run("exec", name, "python3", "-c", _LOOK)
        if done.returncode:
            raise CannotRun(
                f"{self.name} does not tell its containers this machine's address: {_reason(done)}"
            )
        reach = done.stdout.strip()
        for listen in dict.fromkeys((reach, "127.0.0.1", _own_address())):
            with _listening(listen) as port:
                connect = f"import socket; socket.create_connection(({reach!r}, {port}), 5)"
                if port and self.run("exec", name, "python3", "-c", connect).returncode == 0:
                    return Addresses(listen, reach)
        advice = "let its firewall accept connections from containers"
        raise CannotRun(f"containers do not reach this machine at {reach}: {advice}")

    def _let_sam_find(self, folder: Path, stack: ExitStack) -> None:
        """Set DOCKER_HOST for SAM; podman gets a service of its own, which ends with the stack."""
        if self.name == "docker":
            if "DOCKER_HOST" not in os.environ:
                done = self.run("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
                if done.returncode == 0 and done.stdout.strip():
                    self.environment["DOCKER_HOST"] = done.stdout.strip()
            return
        path = folder / "podman.sock"
        command = ["podman", "system", "service", "--time", "0", f"unix://{path}"]
        service = Process(command, folder / "podman.log", {**os.environ, **self.environment})
        stack.callback(service.kill)
        try:
            wait_for(lambda: path.exists() or service.exit_code() is not None, 20, "podman's service")
        except AssertionError as error:
            raise CannotRun(str(error)) from error
        if service.exit_code() is not None:
            raise CannotRun(f"podman's service ended: {_last_line(service.output())}")
        self.environment["DOCKER_HOST"] = f"unix://{path}"


@dataclass(frozen=True)
class Addresses:
    """Hold the address to listen on, and the one at which containers reach it; mostly the same."""

    listen: str
    reach: str


def find_engine() -> Engine:
    """Return Docker, else podman, or the one that the variable ENGINE names; raise CannotRun without any."""
    wanted = os.environ.get("ENGINE")
    if wanted and wanted not in _ENGINES:
        raise CannotRun(f"ENGINE={wanted}: set it to docker or podman, or leave it unset")
    problems = []
    for name in [wanted] if wanted else _ENGINES:
        engine = Engine(name)
        problem = engine.problem()
        if problem is None:
            return engine
        problems.append(f"{name}: {problem}")
    raise CannotRun(f"no container engine answers ({'; '.join(problems)}): start Docker, or install podman")


def why_not_build() -> str | None:
    """Return why no image can be built here; None when one can."""
    if sys.platform != "linux":
        return "that needs Linux"
    if os.geteuid() != 0:
        return "that needs root"
    missing = [name for name in ("debootstrap", "gpgv", "tar") if shutil.which(name) is None]
    return f"install {' and '.join(missing)}" if missing else None


@contextmanager
def _listening(address: str) -> Iterator[int]:
    """Listen in a `with` block; yield the port, or 0 where this machine does not have that address."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server((address, 0)))
        except OSError:
            yield 0
        else:
            yield int(server.getsockname()[1])


def _own_address() -> str:
    """Return this machine's address in its network; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _mirror() -> list[str]:
    """Return the Debian mirror that apt uses; none lets debootstrap choose."""
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"]
    try:
        command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split()[:1]


def _unmount(root: Path) -> None:
    """Unmount what an interrupted debootstrap has left mounted, before the folder is deleted."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(root):
            subprocess.run(["umount", "--lazy", mount], capture_output=True, timeout=20, check=False)


def _do(command: list[str], seconds: float) -> None:
    """Run a step of building; raise CannotRun with its last line when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"the image cannot be built: {error}") from error
    if done.returncode:
        raise CannotRun(f"the image cannot be built: {command[0]}: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last thing that a failed command said."""
    return _last_line(done.stderr) or _last_line(done.stdout) or f"exit code {done.returncode}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
