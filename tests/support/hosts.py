"""Play a host in a folder: the scripts of `ec2_runner/host/machine` are real, the machine is not."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "ec2_runner" / "host" / "machine"
SSHD = Path("/usr/sbin/sshd")
HOST_ID = "AROAEXAMPLE:i-0123456789"

# Copies between a folder and the machine, as `aws s3 cp` does; a bucket that is not there is no network.
AWS = """
while [[ $1 == --cli-* ]]; do shift 2; done
[[ $1 == s3 && $2 == cp && $3 == --only-show-errors && -d $FAKE_S3 ]] || exit 1
from=${4/#s3:\\/\\//$FAKE_S3/} to=${5/#s3:\\/\\//$FAKE_S3/}
[[ $to == - ]] || mkdir -p "$(dirname "$to")"
if [[ ${6:-} == --recursive ]]; then mkdir -p "$to" && cp -r "$from." "$to"
elif [[ $from == - ]]; then cat >"$to"
elif [[ $to == - ]]; then cat "$from"
else cp "$from" "$to"
fi
"""
VENV = """
cp -rl {pattern} "$3" && rm -r "$3"/bin/{{cxr,pip}} "$3"/lib/python*/site-packages/cxr*
printf '#!/bin/bash\nexec "%s/bin/python" -m pip "$@"\n' "$3" >"$3/bin/pip"
chmod +x "$3/bin/pip"
"""
NOTE = 'echo "$(basename "$0") $*" >>"$FAKE_CALLS"\n'
CHECK = """
import os, pathlib, sys
def main():
    assert sys.argv[1:] == ["worker", "--check"]
    sys.exit({status})
"""


@dataclass(frozen=True)
class FakeHost:
    """Hold a machine below `prefix`, and the buckets that it sees."""

    prefix: Path
    python: str = sys.executable

    @property
    def s3(self) -> Path:
        """Return the folder of the buckets."""
        return self.prefix / "s3"

    @property
    def opt(self) -> Path:
        """Return the folder of the releases."""
        return self.prefix / "opt/cxr"

    @property
    def calls(self) -> list[str]:
        """Return the commands that the scripts ran."""
        path = self.prefix / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def at(self, key: str) -> Path:
        """Return the file of an object in the bucket of X-rays."""
        return self.s3 / "cxr-test" / key

    def artifact(self, key: str) -> Path:
        """Return the file of an object in the artifact bucket."""
        return self.s3 / "cxr-artifacts" / key

    def place(self, number: int) -> Path:
        """Return the folder of the last upload of a release."""
        found = self.artifact("releases").glob(f"{number}-*")
        return max(found, key=lambda path: path.stat().st_mtime_ns)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script of this host to its end."""
        command = ["bash", str(SCRIPTS / script), *arguments]
        return subprocess.run(
            command,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment that the systemd unit sets."""
        return {
            "PATH": f"{self.prefix}/bin:{os.environ['PATH']}:/usr/sbin",
            "AWS_REGION": "eu-west-1",
            "CXR_BUCKET": "cxr-test",
            "CXR_ARTIFACTS": "cxr-artifacts",
            "CXR_HOST_ID": HOST_ID,
            "CXR_PREFIX": str(self.prefix),
            "CXR_PYTHON": self.python,
            "CXR_ACCOUNT": "",
            "CXR_PAUSE": "0",
            "FAKE_S3": str(self.s3),
            "FAKE_CALLS": str(self.prefix / "calls"),
            **more,
        }

    def release(self, number: int, healthy: bool = True, install: str | None = None) -> str:
        """Upload a release, make it current, return its name; `install` replaces its installation script."""
        folder = self.artifact("upload")
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "wheelhouse").mkdir(parents=True)
        make_wheel(folder / "wheelhouse", number, 0 if healthy else 1)
        shutil.copytree(SCRIPTS, folder / "host")
        if install:
            (folder / "host/install.sh").write_text(install)
        write_manifest(folder)
        name = f"{number}-{hashlib.sha256((folder / 'manifest.sha256').read_bytes()).hexdigest()}"
        place = self.artifact(f"releases/{name}")
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
        self.artifact("releases/current").write_text(f"{name}\n")
        return name

    def running(self) -> str:
        """Return the number of the release that would be started."""
        return (self.opt / "current").resolve().name.split("-")[0]


def make_host(prefix: Path) -> FakeHost:
    """Make a bare machine with an empty bucket."""
    commands = prefix / "bin"
    commands.mkdir(parents=True)
    for name in ("systemctl", "useradd", "dnf", "pkaction"):
        make_command(commands / name, NOTE)
    make_command(commands / "aws", AWS)
    if not SSHD.exists():
        make_command(commands / "sshd", NOTE)
    (prefix / "etc/ssh/sshd_config.d").mkdir(parents=True)
    if shutil.which("ssh-keygen"):
        key = str(prefix / "etc/ssh/host_key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    _configure_sshd(prefix)
    host = FakeHost(prefix)
    host.artifact("releases").mkdir(parents=True)
    return host


def copy_host(host: FakeHost, prefix: Path) -> FakeHost:
    """Copy the machine. Its Python makes environments quickly, by copying that of `host`."""
    shutil.copytree(host.prefix, prefix, symlinks=True)
    (prefix / "calls").unlink()
    _configure_sshd(prefix)
    make_command(prefix / "bin/python", VENV.format(pattern=host.opt / "current/venv"))
    return FakeHost(prefix, str(prefix / "bin/python"))


def make_wheel(folder: Path, number: int, status: int) -> None:
    """Make a wheel whose `cxr worker --check` exits with this status."""
    name = f"cxr_inbox-0.1.{number}"
    files = {
        "cxr.py": CHECK.format(status=status),
        f"{name}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: cxr-inbox\nVersion: 0.1.{number}\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}.dist-info/entry_points.txt": "[console_scripts]\ncxr = cxr:main\n",
    }
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{name}.dist-info/RECORD", "".join(f"{path},,\n" for path in files))


def write_manifest(folder: Path) -> None:
    """Write the manifest as `ec2_runner/stack/release.py` does."""
    lines = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    (folder / "manifest.sha256").write_text("".join(lines))


def _configure_sshd(prefix: Path) -> None:
    folder = prefix / "etc/ssh"
    (folder / "sshd_config").write_text(f"Include {folder}/sshd_config.d/*.conf\nHostKey {folder}/host_key\n")


def make_command(path: Path, script: str) -> None:
    """Make a command of that machine."""
    path.write_text(f"#!/bin/bash\n{script}")
    path.chmod(0o755)
