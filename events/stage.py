"""Play AWS and the host on this machine, and invoke functions in containers by `sam local invoke`.

moto's server is S3, DynamoDB, SQS and EC2, with the sample X-rays in its bucket; the host is the real worker
behind a real SSH server. Either can be the user's own, by variables: docs/aws.md lists them.
"""

import contextlib
import getpass
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from filelock import FileLock, Timeout

from events.answer import Answer, answer_of
from events.engine import CannotRun, Engine, find_engine
from pipeline.aws.names import StackNames
from tests.support.aws import ROOT, resources, sam, template
from tests.support.machines import (
    ACCESS_KEY,
    REGION,
    SECRET,
    SSHD,
    Moto,
    Process,
    Sshd,
    free_port,
)
from tests.support.tables import FEED, make_table

BUCKET, STACK = "cxr-inbox-example", "cxr-inbox"
_SECONDS = 300  # for one invocation: the function's timeout, and SAM's start with its own layer of the image
_WORKER_SECONDS = 120
_BUILD_SECONDS = 900
MACHINE = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KEY = "ssh_key"  # file in the functions' package


@dataclass(frozen=True)
class Choice:
    """Hold what the user has in place of our stand-ins; None where we play it."""

    aws: str | None = None  # the address of S3, DynamoDB and SQS
    s3: str | None = None  # that of S3, if it is another
    bucket: str = BUCKET
    stack: str = STACK
    ssh: str | None = None  # the host

    @property
    def has_account(self) -> bool:
        """Return whether the user's credentials are needed."""
        return bool(self.aws or self.s3)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Choice":
        """Read the choice from variables; raise CannotRun for one that cannot work."""
        given = {name: value for name, value in environment.items() if value}
        aws, s3, ssh = (given.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "CXR_SSH"))
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            if name in given and not urlsplit(given[name]).hostname:
                raise CannotRun(f"{name}={given[name]}: write it as http://192.168.1.7:9000")
            if name in given and urlsplit(given[name]).hostname in _LOOPBACK:
                advice = "is the container itself when seen from there: use this machine's address"
                raise CannotRun(f"{name}={given[name]} {advice}")
        if (aws or s3) and "CXR_BUCKET" not in given:
            raise CannotRun("set CXR_BUCKET to the bucket of your S3 endpoint")
        if ssh and not (aws or s3):
            raise CannotRun("your host must reach the X-rays: with CXR_SSH, set AWS_ENDPOINT_URL_S3 as well")
        for name in ("CXR_SSH_KEY", "CXR_SSH_HOST_KEY") if ssh else ():
            if name not in given:
                raise CannotRun(f"set {name}, too: CXR_SSH names a host of your own")
        if ssh and not Path(given["CXR_SSH_KEY"]).expanduser().is_file():
            raise CannotRun(f"CXR_SSH_KEY: there is no file {given['CXR_SSH_KEY']}")
        bucket = given["CXR_BUCKET"] if aws or s3 else BUCKET
        return cls(aws, s3, bucket, given.get("CXR_STACK", STACK) if aws else STACK, ssh)


class Stage:
    """Hold the running parts."""

    def __init__(self, folder: Path, engine: Engine, choice: Choice, image: str) -> None:
        self.bucket, self.stack = choice.bucket, choice.stack
        self._folder, self._engine, self._choice = folder, engine, choice
        self._public = image.startswith("public.")
        self._image = image
        self._parts: dict[str, Process] = {}
        self._urls: dict[str, str] = {}  # where AWS is, for everybody
        self._env: dict[str, str] = {}  # the environment of SAM and of the worker
        self._count = 0

    def client(self, service: str) -> Any:
        """Return a boto3 client of what plays AWS."""
        url = self._urls.get(f"AWS_ENDPOINT_URL_{service.upper()}", self._urls["AWS_ENDPOINT_URL"])
        key, secret = (None, None) if self._choice.has_account else (ACCESS_KEY, SECRET)
        session: Any = boto3.Session(key, secret, region_name=self._env["AWS_DEFAULT_REGION"])
        config = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 2})
        return session.client(service, endpoint_url=url, config=config)

    def invoke(self, function: str, event: Mapping[str, Any]) -> Answer:
        """Invoke a function by its name in the template, in a new container."""
        self._count += 1
        event_path, out, log = (
            self._folder / f"{self._count}.{ending}" for ending in ("json", "answer", "log")
        )
        event_path.write_text(json.dumps(event), encoding="utf-8")
        overrides = f"BucketName={self.bucket} FunctionArchitecture={MACHINE}"
        command = [
            *(str(sam()), "local", "invoke", function, "--event", str(event_path)),
            *("--template", str(self._folder / "template.json"), "--parameter-overrides", overrides),
            *(() if self._public else ("--invoke-image", self._image)),
        ]
        environment = {  # without our variables: SAM takes those of its own environment for the template's
            **{name: value for name, value in self._env.items() if not name.startswith("CXR_")},
            **self._engine.environment,
            "SAM_CLI_TELEMETRY": "0",
            "SAM_SKIP_PULL_IMAGE": "1",
        }
        began = time.monotonic()
        with out.open("wb") as answered, log.open("wb") as written:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=answered,
                stderr=written,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                self._end(process, log)
        text = log.read_text(errors="replace")
        return answer_of(out.read_text(errors="replace"), code, text, time.monotonic() - began)

    def _end(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        """Remove the container of a SAM that was interrupted."""
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
            for line in log.read_text(errors="replace").splitlines():
                if "SAM_CONTAINER_ID: " in line:
                    self._engine.run("rm", "--force", line.rsplit(maxsplit=1)[1])

    def diagnosis(self) -> str:
        """Return the last lines that moto, the worker and the SSH server wrote, without answered requests."""
        parts = []
        for name, part in self._parts.items():
            lines = [line for line in part.output().splitlines() if not re.search(r'" [23]\d\d -$', line)]
            state = "" if part.exit_code() is None else f", which ended with exit code {part.exit_code()}"
            parts.append("\n  ".join([f"{name}{state}:", *lines[-15:]]))
        return "\n".join(parts)

    def start(
        self, stack: ExitStack, listen: str, reach: str, inbox: Path, say: Callable[[str], None]
    ) -> None:
        """Start the parts, which end with the stack, and make the template and the package."""
        say("building the functions' package")
        package = _package(self._folder)
        if names := self._names():
            say("starting " + ", ".join(names))
        self._urls = {"AWS_ENDPOINT_URL": self._start_aws(stack, listen, reach)}
        if self._choice.s3:
            self._urls["AWS_ENDPOINT_URL_S3"] = self._choice.s3
        self._env = _account(self._choice) | self._urls
        try:
            queue = self._fill(inbox)
        except (BotoCoreError, ClientError) as error:
            who = self._choice.aws or "moto"
            raise CannotRun(f"{who} does not answer as AWS would: {error}\n{self.diagnosis()}") from error
        host = self._start_host(stack, listen, reach, package)
        variables = {
            **self._urls,
            "CXR_BUCKET": self.bucket,
            "CXR_STACK": self.stack,
            "CXR_QUEUE_URL": queue,
            "CXR_LOG_KEY": "local",
            "CXR_LOG_LEVEL": os.environ.get("CXR_LOG_LEVEL", "INFO"),
            **host,
        }
        (self._folder / "template.json").write_text(json.dumps(with_variables(package, variables)))

    def _names(self) -> list[str]:
        moto = [] if self._choice.aws else ["moto"]
        return moto + ([] if self._choice.ssh else ["a worker", "an SSH server"])

    def _start_aws(self, stack: ExitStack, listen: str, reach: str) -> str:
        if self._choice.aws:
            return self._choice.aws
        moto = Moto(self._folder, listen)
        stack.callback(moto.stop)
        self._parts["moto"] = moto.process
        return moto.url.replace(listen, reach)

    def _fill(self, inbox: Path) -> str:
        """Create in moto what the functions need; return the URL of the queue."""
        names = StackNames(self.stack)
        if not self._choice.s3 and not self._choice.aws:
            s3 = self.client("s3")
            s3.create_bucket(Bucket=self.bucket)
            for path in sorted(inbox.rglob("*")):
                if path.is_file() and path.suffix != ".json":
                    s3.upload_file(str(path), self.bucket, f"inbox/{path.relative_to(inbox).as_posix()}")
        if self._choice.aws:
            return str(self.client("sqs").get_queue_url(QueueName=names.jobs)["QueueUrl"])
        make_table(self.client("dynamodb"), names.index, "key", FEED)
        make_table(self.client("dynamodb"), names.lease, "id")
        return str(self.client("sqs").create_queue(QueueName=names.jobs)["QueueUrl"])

    def _start_host(self, stack: ExitStack, listen: str, reach: str, package: Path) -> dict[str, str]:
        """Start the host, unless the user has one; return the functions' variables for it."""
        key = package / _KEY
        variables = {"CXR_HOST": "ssh", "CXR_SSH_KEY": f"/var/task/{_KEY}"}
        if self._choice.ssh:
            shutil.copyfile(Path(os.environ["CXR_SSH_KEY"]).expanduser(), key)
            key.chmod(0o644)  # readable for the container's user; the folder is this user's alone
            names = ("CXR_SSH", "CXR_SSH_HOST_KEY", "CXR_WORKER_PORT", "CXR_WORKER_TOKEN")
            return variables | {name: os.environ[name] for name in names if os.environ.get(name)}
        port, token = str(free_port()), secrets.token_hex(16)
        settings = self._folder / "cxr.toml"
        settings.touch()
        environment = {
            **self._env,
            "CXR_CONFIG": str(settings),
            "CXR_BUCKET": self.bucket,
            "CXR_STACK": self.stack,
            "CXR_WORKER_PORT": port,
            "CXR_WORKER_TOKEN": token,
        }
        worker = Process([sys.executable, "-m", "cxr", "worker"], self._folder / "worker.log", environment)
        stack.callback(worker.kill)
        self._parts["worker"] = worker
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=20)
        key.chmod(0o644)
        sshd = Sshd(self._folder / "sshd", int(port), listen)
        stack.callback(sshd.stop)
        self._parts["sshd"] = sshd.process
        sshd.authorized.write_text(key.with_suffix(".pub").read_text())
        worker.wait_until_listening(int(port), "127.0.0.1", "the worker", _WORKER_SECONDS)
        return variables | {
            "CXR_SSH": f"{getpass.getuser()}@{reach}:{sshd.port}",
            "CXR_SSH_HOST_KEY": " ".join(sshd.host_key.split()[:2]),
            "CXR_WORKER_PORT": port,
            "CXR_WORKER_TOKEN": token,
        }


@contextmanager
def stage(choice: Choice, say: Callable[[str], None], inbox: Path | None = None) -> Iterator[Stage]:
    """Set the stage in a `with` block, with the files of a folder in the inbox; raise CannotRun."""
    problem = missing(choice)
    if problem:
        raise CannotRun(problem)
    engine = find_engine()
    image = engine.image(runtime(), MACHINE, say)
    (ROOT / "build").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=ROOT / "build", prefix="stage-") as folder, ExitStack() as stack:
        addresses = stack.enter_context(engine.ready(image))
        set_up = Stage(Path(folder), engine, choice, image)
        try:
            samples = ROOT / "events" / "samples"
            set_up.start(stack, addresses.listen, addresses.reach, inbox or samples, say)
        except AssertionError as error:  # a part did not start; it says why
            raise CannotRun(str(error)) from error
        yield set_up


def missing(choice: Choice) -> str | None:
    """Return what a run needs and this machine lacks, engines apart; None when all is there."""
    try:
        sam()
    except AssertionError as error:
        return str(error)
    if shutil.which("make") is None:
        return "make is missing: it builds the functions' package"
    if choice.ssh is None:
        if not Path(SSHD).exists():
            return "sshd is missing: install the OpenSSH server (`apt install openssh-server`)"
        if shutil.which("ssh-keygen") is None:
            return "ssh-keygen is missing: install the OpenSSH client (`apt install openssh-client`)"
    return None


def functions() -> dict[str, str]:
    """Return the template's functions by short name: `ingest` is `IngestFunction`."""
    handlers = resources("AWS::Serverless::Function").items()
    return {content["Handler"].split(".")[1]: name for name, content in handlers}


def runtime() -> str:
    """Return the functions' Python, such as `3.13`."""
    return str(template()["Globals"]["Function"]["Runtime"]).removeprefix("python")


def with_variables(package: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the template with its package here and these variables: SAM sets only those that it has."""
    content = json.loads(json.dumps(template()))  # a copy
    function = content["Globals"]["Function"]
    function["CodeUri"] = str(package)
    function["Environment"]["Variables"] |= variables
    return dict(content)


def _account(choice: Choice) -> dict[str, str]:
    """Return this process's environment with a region, and with a made-up account where moto plays AWS."""
    environment = dict(os.environ)
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or REGION
    if not choice.has_account:
        environment = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
        environment |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        region = REGION
    return environment | {"AWS_DEFAULT_REGION": region, "AWS_REGION": region}


def _package(folder: Path) -> Path:
    """Build the functions' package, its libraries once; return a copy, to which this run adds its SSH key."""
    library = ROOT / "build" / "local"
    platform_tag = f"manylinux2014_{'aarch64' if MACHINE == 'arm64' else MACHINE}"
    variables = {
        "BIN": str(Path(sys.executable).parent),
        "LAMBDA": str(library.relative_to(ROOT)),
        "LAMBDA_PLATFORM": platform_tag,
        "LAMBDA_PYTHON": runtime(),
    }
    named = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "--no-print-directory", "--assume-old=.venv/runtime", *named, "lambda"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    try:
        with FileLock(library.with_suffix(".lock"), timeout=_BUILD_SECONDS):  # another run may be building it
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_BUILD_SECONDS,
                check=False,
            )
            if done.returncode:
                raise CannotRun(f"the functions' package cannot be built:\n{done.stderr.strip()[-2000:]}")
            return Path(shutil.copytree(library, folder / "package", copy_function=os.link))
    except (subprocess.TimeoutExpired, Timeout) as error:
        raise CannotRun(f"the functions' package was not built in {_BUILD_SECONDS} s") from error
