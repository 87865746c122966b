"""Run `sam local invoke` with each event of this folder: `.venv/bin/python events/smoke.py`.

Needs Linux, a container engine, an SSH server's program and `make install-test`. It brings everything else
itself, on this machine: moto's server in place of AWS, with the sample X-rays in its bucket, and a worker
behind an SSH server in place of the host. Where there is no container engine, it says so and exits with
success.
"""

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

try:
    import boto3
    import typer
except ImportError as error:
    sys.exit(f"smoke: {error.name} is not installed: run `make install-test` first")

ROOT = Path(__file__).parents[1]
SAM = ROOT / ".venv" / "sam" / "bin" / "sam"
BUCKET, STACK, REGION = "cxr-inbox-example", "cxr-inbox", "us-east-1"
SECONDS = 120  # for one invocation; the first one also fetches the runtime's image
ARM = platform.machine() in ("aarch64", "arm64")
GUEST = {"AWS_ACCESS_KEY_ID": "smoke", "AWS_SECRET_ACCESS_KEY": "smoke", "AWS_DEFAULT_REGION": REGION}


@dataclass(frozen=True)
class Place:
    """Locate the parts of one run."""

    work: Path
    address: str  # this machine's, as containers reach it
    aws_port: int
    ssh_port: int
    worker_port: int


def main() -> int:
    """Run every event; return exit code 1 when one of them failed."""
    problem = missing()
    if problem:
        typer.echo(f"skipped: {problem}")
        return 0
    with TemporaryDirectory() as folder, ExitStack() as stack:
        place = Place(Path(folder), address(), *free_ports(3))
        start(stack, place)
        results = [invoke(place, event) for event in sorted(ROOT.glob("events/*.json"))]
    return 0 if all(results) else 1


def missing() -> str | None:
    """Return what this run needs and the machine lacks; None when all is there."""
    if sys.platform != "linux":
        return "the address of this machine in its containers is known only on Linux"
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        return "no container engine answers `docker info`"
    if sshd() is None:
        return "sshd is missing: install the OpenSSH server"
    return None if SAM.exists() else "SAM is missing: run `make install-test`"


def sshd() -> str | None:
    """Return the SSH server's program, which may be outside a user's path."""
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


def address() -> str:
    """Return this machine's address as its containers see it.

    It is a number, because boto3 would put the bucket's name before a host name.
    """
    wanted = "{{(index .IPAM.Config 0).Gateway}}"
    command = ["docker", "network", "inspect", "bridge", "--format", wanted]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def start(stack: ExitStack, place: Place) -> None:
    """Make the package, and start the servers that stand in for AWS and the host."""
    build(place)
    spawn(stack, [sys.executable, "-m", "moto.server", "-H", place.address, "-p", str(place.aws_port)])
    wait_for(place.address, place.aws_port)
    url = f"http://{place.address}:{place.aws_port}"
    fill(url)
    host = {"AWS_ENDPOINT_URL": url, "CXR_BUCKET": BUCKET}
    port = {"CXR_WORKER_PORT": str(place.worker_port)}
    spawn(stack, [sys.executable, "-m", "cxr", "worker"], {**GUEST, **host, **port})
    spawn(stack, ssh_server(place))
    wait_for("127.0.0.1", place.worker_port)
    wait_for(place.address, place.ssh_port)
    (place.work / "template.yaml").write_text(template(place), encoding="utf-8")
    (place.work / "variables.json").write_text(json.dumps({"Parameters": variables(place)}), encoding="utf-8")


def build(place: Place) -> None:
    """Build the Lambda package, with the SSH key in it, for this machine's container architecture."""
    target = f"LAMBDA_PLATFORM=manylinux2014_{'aarch64' if ARM else 'x86_64'}"
    package = place.work / "package"
    make = ["make", "--assume-old=.venv/runtime", f"BIN={Path(sys.executable).parent}", target]
    subprocess.run([*make, f"LAMBDA={package}", "lambda"], cwd=ROOT, check=True)
    for path in (package / "smoke_key", place.work / "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    (package / "smoke_key").chmod(0o644)  # readable for the container's user; deleted after this run


def ssh_server(place: Place) -> list[str]:
    """Return the command of an SSH server that lets this run's key reach only the worker's port."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    settings = {
        "ListenAddress": place.address,
        "Port": place.ssh_port,
        "HostKey": place.work / "host_key",
        "AuthorizedKeysFile": place.work / "package" / "smoke_key.pub",
        "PermitOpen": f"127.0.0.1:{place.worker_port}",
        "PermitRootLogin": "prohibit-password",
        **dict.fromkeys(("PasswordAuthentication", "KbdInteractiveAuthentication", "PermitTTY"), "no"),
        **dict.fromkeys(("StrictModes", "UsePAM"), "no"),
        "PidFile": "none",
    }
    path = place.work / "sshd_config"
    path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    return [sshd() or "sshd", "-D", "-f", str(path)]


def fill(url: str) -> None:
    """Create the bucket with the samples, the tables and the queue."""
    session = boto3.Session(GUEST["AWS_ACCESS_KEY_ID"], GUEST["AWS_SECRET_ACCESS_KEY"], region_name=REGION)
    bucket = session.client("s3", endpoint_url=url)
    bucket.create_bucket(Bucket=BUCKET)
    samples = ROOT / "events" / "samples"
    for path in samples.rglob("*.jpeg"):
        bucket.upload_file(str(path), BUCKET, f"inbox/{path.relative_to(samples).as_posix()}")
    for name, key in (("index", "key"), ("lease", "id")):
        session.client("dynamodb", endpoint_url=url).create_table(
            TableName=f"{STACK}-{name}",
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    session.client("sqs", endpoint_url=url).create_queue(QueueName=f"{STACK}-jobs")


def variables(place: Place) -> dict[str, str]:
    """Return the functions' environment variables that replace the template's values."""
    url = f"http://{place.address}:{place.aws_port}"
    return {
        "AWS_ENDPOINT_URL": url,
        "CXR_BUCKET": BUCKET,
        "CXR_STACK": STACK,
        "CXR_QUEUE_URL": f"{url}/123456789012/{STACK}-jobs",
        "CXR_HOST": "ssh",
        "CXR_SSH": f"{getpass.getuser()}@{place.address}:{place.ssh_port}",
        "CXR_SSH_KEY": "/var/task/smoke_key",
        "CXR_SSH_HOST_KEY": " ".join((place.work / "host_key.pub").read_text().split()[:2]),
        "CXR_WORKER_PORT": str(place.worker_port),
        "CXR_LOG_KEY": "smoke",
    }


def template(place: Place) -> str:
    """Return the template with its package here, and with the variables that it lacks: SAM sets no others."""
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    text = text.replace("CodeUri: build/lambda", f"CodeUri: {place.work / 'package'}")
    mark = "        CXR_HOST: ec2\n"
    more = [name for name in variables(place) if f"        {name}: " not in text]
    return text.replace(mark, mark + "".join(f'        {name}: ""\n' for name in more))


def invoke(place: Place, event: Path) -> bool:
    """Run one event; return whether nothing in it failed."""
    architecture = "arm64" if ARM else "x86_64"
    command = [
        *(str(SAM), "local", "invoke", "IngestFunction", "--event", str(event)),
        *("--template", str(place.work / "template.yaml"), "--env-vars", str(place.work / "variables.json")),
        *("--parameter-overrides", f"BucketName={BUCKET} FunctionArchitecture={architecture}"),
    ]
    environment = {**os.environ, **GUEST, "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=5 * SECONDS)
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        results = [outcome["result"] for outcome in answer["outcomes"]]
    except (IndexError, KeyError, TypeError, ValueError):
        typer.echo(f"{event.name}: FAILED\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return False
    typer.echo(f"{event.name}: {', '.join(results) or 'nothing to do'}")
    return not {"failed", "given_up", "waiting"} & set(results)


def spawn(stack: ExitStack, command: list[str], more: dict[str, str] | None = None) -> None:
    """Start a process that ends with this run."""
    process = stack.enter_context(
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(more or {})}, stderr=subprocess.DEVNULL)
    )
    stack.callback(process.terminate)


def wait_for(where: str, port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            socket.create_connection((where, port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
