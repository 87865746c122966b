"""Installation and updates of the inference host."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.aws import user_data
from tests.support.hosts import (
    HOST_ID,
    SCRIPTS,
    SSHD,
    FakeHost,
    copy_host,
    make_command,
    make_host,
    write_manifest,
)

FAILED = f"system/hosts/{HOST_ID}/update-failed.txt"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> FakeHost:
    """Provide a host that installed release 1 from nothing."""
    host = make_host(tmp_path_factory.mktemp("installed"))
    host.release(1)
    answer = host.run("update.sh")
    assert answer.returncode == 0, answer.stderr
    assert "release 1-" in answer.stdout
    return host


@pytest.fixture
def host(installed: FakeHost, tmp_path: Path) -> FakeHost:
    """Provide a host with release 1."""
    return copy_host(installed, tmp_path / "host")


def first_boot(host: FakeHost, release: str) -> subprocess.CompletedProcess[str]:
    """Run the launch template's script until it is done or pauses, and return what the console shows."""
    values = {
        "AWS::Region": "eu-west-1",
        "BucketName": "cxr-test",
        "HostRole.RoleId": "AROAROLE",
        "IdleMinutes": "20",
        "Release": release,
        "ExtraUserData": "echo more >$CXR_PREFIX/more",
        "AWS::StackName": "cxr",
        "AWS::AccountId": "1",
    }
    script = re.sub(r"\$\{([\w:.]+)\}", lambda found: values[found[1]], user_data())
    host.s3.joinpath("cxr-artifacts").rename(host.s3 / "cxr-artifacts-1-eu-west-1")
    make_command(host.prefix / "bin/sleep", "kill $PPID\n")
    console = host.prefix / "console"
    return subprocess.run(
        ["bash", "-c", script.replace("/dev/console", str(console))],
        env=host.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_first_boot_installs_the_release_that_its_launch_template_names(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    name = host.release(1)
    host.release(2)
    answer = first_boot(host, name)
    assert answer.returncode == 0, answer.stdout
    assert (host.opt / "host/update.sh").read_bytes() == (SCRIPTS / "update.sh").read_bytes()
    settings = (host.prefix / "etc/cxr/host.env").read_text().splitlines()
    assert {f"CXR_FIRST_RELEASE={name}", "CXR_ARTIFACTS=cxr-artifacts-1-eu-west-1"} <= set(settings)
    assert (host.prefix / "more").exists()


@pytest.mark.parametrize("changed", ["host/install.sh", "host/log.sh", "manifest.sha256"])
def test_the_first_boot_runs_nothing_that_was_changed(tmp_path: Path, changed: str) -> None:
    host = make_host(tmp_path / "host")
    name = host.release(1)
    with (host.place(1) / changed).open("a") as file:
        file.write(f"touch {tmp_path}/ran\n")
    if changed == "manifest.sha256":
        (host.place(1) / "host/install.sh").write_text(f"touch {tmp_path}/ran\n")
        write_manifest(host.place(1))
    answer = first_boot(host, name)
    assert answer.returncode != 0
    assert "cxr: the installation failed, and is tried again: " in answer.stdout
    assert "FAILED" in (host.prefix / "console").read_text()
    assert not (tmp_path / "ran").exists()
    assert not (host.opt / "host").exists()


def test_the_first_boot_says_on_the_console_why_it_does_not_get_on(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    name = host.release(1)
    make_command(host.prefix / "bin/aws", "echo 'fatal error: 403 Forbidden' >&2; exit 1\n")
    assert first_boot(host, name).returncode != 0
    assert "403 Forbidden" in (host.prefix / "console").read_text()


def test_from_nothing(installed: FakeHost) -> None:
    assert installed.running() == "1"
    assert (installed.opt / "host/update.sh").read_bytes() == (SCRIPTS / "update.sh").read_bytes()
    assert os.access(installed.opt / "host/log.sh", os.X_OK)
    assert (installed.prefix / "etc/systemd/system/cxr-worker.service").exists()
    assert not list((installed.opt / "current").glob("wheelhouse"))
    assert [path.name for path in installed.opt.glob("work.*")] == []


def test_the_same_release_does_nothing_and_is_quick(host: FakeHost) -> None:
    started = time.monotonic()
    answer = host.run("update.sh")
    assert time.monotonic() - started < 3
    assert answer.returncode == 0
    assert answer.stdout.endswith("is already installed\n")
    assert host.calls == []


def test_another_release_is_switched_to_and_two_are_kept(host: FakeHost) -> None:
    for number in (2, 3):
        host.release(number)
        answer = host.run("update.sh")
        assert answer.returncode == 0, answer.stderr
        assert host.running() == str(number)
    assert sorted(path.name[0] for path in (host.opt / "releases").iterdir()) == ["2", "3"]


def test_a_release_that_was_built_again_is_another_one(host: FakeHost) -> None:
    before = (host.opt / "current").resolve()
    host.release(1, install=(SCRIPTS / "install.sh").read_text() + "# changed\n")
    assert host.run("update.sh").returncode == 0
    assert host.running() == "1"
    assert (host.opt / "current").resolve() != before


def test_an_unhealthy_release_is_refused_once_and_the_bucket_says_so(host: FakeHost) -> None:
    host.release(2, healthy=False)
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert "failed its own check; release 1-" in answer.stderr
    assert host.running() == "1"
    assert re.fullmatch(r"release 2-\w+: it failed its own check\n", host.at(FAILED).read_text())
    assert len(list((host.opt / "releases").iterdir())) == 1
    answer = host.run("update.sh")
    assert "was refused a while ago" in answer.stderr
    os.utime(host.opt / "refused", (0, 0))
    assert "failed its own check" in host.run("update.sh").stderr
    host.release(3)
    assert host.run("update.sh").returncode == 0
    assert host.running() == "3"
    assert host.at(FAILED).read_text() == ""


def test_a_wheel_that_was_changed_is_refused(host: FakeHost) -> None:
    host.release(2)
    (wheel,) = (host.place(2) / "wheelhouse").iterdir()
    wheel.write_bytes(wheel.read_bytes() + b"!")
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert f"{wheel.name} does not match its manifest" in answer.stderr
    assert host.running() == "1"


@pytest.mark.parametrize("name", ["../../../etc/passwd", "wheelhouse/../x", "wheelhouse/a b", "other/x"])
def test_a_manifest_cannot_name_another_place(host: FakeHost, name: str) -> None:
    host.release(2)
    manifest = host.place(2) / "manifest.sha256"
    manifest.write_text(f"{'0' * 64}  {name}\n" + manifest.read_text())
    named = f"2-{hashlib.sha256(manifest.read_bytes()).hexdigest()}"
    manifest.parent.rename(host.artifact(f"releases/{named}"))
    host.artifact("releases/current").write_text(named)
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert "names a file that no release has" in answer.stderr


def test_what_no_manifest_names_is_not_installed(host: FakeHost) -> None:
    host.release(2)
    (host.place(2) / "wheelhouse/evil-1.0-py3-none-any.whl").write_text("no wheel")
    assert host.run("update.sh").returncode == 0
    assert host.running() == "2"


def test_without_the_bucket_the_release_that_runs_stays(host: FakeHost) -> None:
    shutil.rmtree(host.s3)
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert "did not name a release; release 1-" in answer.stderr


def test_a_missing_file_of_a_release_is_no_new_release(host: FakeHost) -> None:
    host.artifact("releases/current").write_text(f"9-{'0' * 64}")
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert "release 9-000000000000 has no manifest" in answer.stderr


@pytest.mark.parametrize("current", ["2", "2-abc", "", f"2-{'0' * 63}/", f"../../2-{'0' * 64}"])
def test_a_release_is_named_with_the_hash_of_its_manifest(host: FakeHost, current: str) -> None:
    host.release(2)
    host.artifact("releases/current").write_text(current)
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert "does not name a release; release 1-" in answer.stderr


def test_a_release_whose_files_and_manifest_were_replaced_is_refused(host: FakeHost) -> None:
    """The manifest fits its files, but it is not the one that was deployed."""
    other = host.release(3)
    name = host.release(2)
    shutil.rmtree(host.artifact(f"releases/{name}"))
    host.artifact(f"releases/{other}").rename(host.artifact(f"releases/{name}"))
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert "its manifest is not the one that was deployed; release 1-" in answer.stderr
    assert "is not the one that was deployed" in host.at(FAILED).read_text()
    assert host.running() == "1"


def test_what_lies_in_the_bucket_of_x_rays_is_no_release(host: FakeHost) -> None:
    """Whoever may write the bucket of X-rays must not become root on the host."""
    name = host.release(2)
    shutil.copytree(host.artifact("releases"), host.at("system/releases"))
    shutil.copytree(host.artifact("releases"), host.at("releases"))
    shutil.rmtree(host.artifact(f"releases/{name}"))
    assert host.run("update.sh").returncode == 0
    assert host.running() == "1"


def test_the_first_release_is_the_one_that_the_launch_template_names(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    first = host.release(1)
    host.release(2)
    answer = host.run("update.sh", CXR_FIRST_RELEASE=first)
    assert answer.returncode == 0, answer.stderr
    assert host.running() == "1"
    copy = copy_host(host, tmp_path / "copy")
    assert copy.run("update.sh", CXR_FIRST_RELEASE=first).returncode == 0
    assert copy.running() == "2"


def test_a_first_release_that_was_replaced_is_not_installed(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    first, other = host.release(1), host.release(2)
    shutil.rmtree(host.artifact(f"releases/{first}"))
    shutil.copytree(host.artifact(f"releases/{other}"), host.artifact(f"releases/{first}"))
    answer = host.run("update.sh", CXR_FIRST_RELEASE=first)
    assert answer.returncode == 1
    assert "is not the one that was deployed" in answer.stderr
    assert not (host.opt / "current").exists()


def test_without_bucket_and_release_it_fails_and_says_so(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    answer = host.run("update.sh")
    assert answer.returncode == 1
    assert answer.stderr.endswith("there is no other release to run\n")


def test_scripts_that_do_not_install_leave_the_old_ones(host: FakeHost) -> None:
    host.release(2, install=f"rm {host.opt}/host/log.sh; exit 1")
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert "its scripts could not be installed" in host.at(FAILED).read_text()
    assert host.running() == "1"
    assert (host.opt / "host/log.sh").exists()


def test_a_defect_of_the_update_does_not_keep_the_old_from_starting(host: FakeHost) -> None:
    host.release(2)
    make_command(host.prefix / "bin/mv", "exit 1\n")
    answer = host.run("update.sh")
    assert answer.returncode == 0
    assert "the update broke off; release 1-" in answer.stderr


@pytest.mark.parametrize("command", ["pip", "check", "install"])
def test_killed_in_the_middle_and_run_again(host: FakeHost, command: str) -> None:
    """Kill it in three places: while it installs packages, while it checks, while it installs scripts."""
    host.release(2)
    reached = host.prefix / "reached"
    hang = f'if [[ "$*" == *"$FAKE_HANG"* ]]; then touch {reached}; exec sleep 60; fi'
    make_command(host.prefix / "bin/timeout", f'{hang}\nexec {shutil.which("timeout")} "$@"\n')
    word = {"pip": "--no-index", "check": "--check", "install": "install.sh"}[command]
    process = subprocess.Popen(
        ["bash", SCRIPTS / "update.sh"], env=host.environment(FAKE_HANG=word), start_new_session=True
    )
    until = time.monotonic() + 60
    while not reached.exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert host.running() == "1"
    answer = host.run("update.sh", FAKE_HANG="nothing of that name")
    assert answer.returncode == 0, answer.stderr
    assert host.running() == "2"
    assert list(host.opt.glob("work.*")) == []


def test_install_writes_the_settings_of_its_environment(host: FakeHost) -> None:
    answer = host.run("install.sh", CXR_IDLE_MINUTES="7", CXR_PREVALENCE="0.1")
    assert answer.returncode == 0, answer.stderr
    path = host.prefix / "etc/cxr/host.env"
    settings = dict(line.split("=", 1) for line in path.read_text().splitlines())
    assert path.stat().st_mode & 0o777 == 0o600
    assert settings["CXR_HOST_ID"] == HOST_ID
    assert (settings["CXR_IDLE_MINUTES"], settings["CXR_PREVALENCE"]) == ("7", "0.1")
    assert (settings["AWS_REGION"], settings["AWS_DEFAULT_REGION"]) == ("eu-west-1", "eu-west-1")
    assert [call for call in host.calls if "reload" in call] == ["systemctl daemon-reload"]  # not sshd again
    assert [call.split()[0] for call in host.calls].count("useradd") == 1
    assert "systemctl --quiet enable cxr-worker.service cxr-log.timer" in host.calls


def test_install_takes_what_the_user_data_wrote(host: FakeHost) -> None:
    path = host.prefix / "etc/cxr/host.env"
    path.write_text(
        "CXR_STORE=s3\nCXR_BUCKET=written\nCXR_HOST_ID=A:i-1\nAWS_REGION=eu-north-1\nLD_PRELOAD=x\n"
    )
    answer = host.run("install.sh", CXR_BUCKET="", CXR_HOST_ID="", AWS_REGION="")
    assert answer.returncode == 0, answer.stderr
    written = path.read_text().splitlines()
    assert {"CXR_BUCKET=written", "CXR_HOST_ID=A:i-1", "AWS_DEFAULT_REGION=eu-north-1"} <= set(written)
    assert not {"LD_PRELOAD=x", "CXR_STORE=s3"} & set(written)  # a setting of earlier releases


def test_install_asks_the_metadata_who_it_is(host: FakeHost) -> None:
    answers = '*--request*) echo token ;; *": token "*/instance-id) echo i-9 ;;'
    make_command(host.prefix / "bin/curl", f"case $* in {answers} esac\n")
    (host.prefix / "etc/cxr/host.env").unlink()
    answer = host.run("install.sh", CXR_HOST_ID="", CXR_HOST_ROLE_ID="AROAROLE")
    assert answer.returncode == 0, answer.stderr
    assert "CXR_HOST_ID=AROAROLE:i-9\n" in (host.prefix / "etc/cxr/host.env").read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"CXR_BUCKET": ""}, "CXR_BUCKET is not set"),
        ({"CXR_ARTIFACTS": ""}, "CXR_ARTIFACTS is not set"),
        ({"AWS_REGION": ""}, "AWS_REGION is not set"),
        ({"CXR_HOST_ID": ""}, "CXR_HOST_ROLE_ID is not set"),
        ({"CXR_WEIGHTS": "a b; reboot"}, "CXR_WEIGHTS holds a character"),
    ],
)
def test_install_refuses_settings_in_a_sentence(host: FakeHost, changes: dict[str, str], reason: str) -> None:
    path = host.prefix / "etc/cxr/host.env"
    path.unlink()
    answer = host.run("install.sh", **changes)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"install: {reason}")
    assert not path.exists()


def test_the_log_goes_up_when_it_changed(host: FakeHost) -> None:
    place = host.at(f"system/hosts/{HOST_ID}/log.txt")
    journal = host.prefix / "bin/journalctl"
    for text, changed in (("one", True), ("one", False), ("two", True)):
        make_command(journal, f"echo {text}\n")
        place.unlink(missing_ok=True)
        assert host.run("log.sh").returncode == 0
        assert place.exists() is changed
    assert place.read_text() == "two\n"
    make_command(host.prefix / "bin/systemctl", "echo $FAKE_STATE\n")
    make_command(journal, "echo three\n")
    assert host.run("log.sh", "at-stop", FAKE_STATE="running").returncode == 0
    assert place.read_text() == "two\n"
    assert host.run("log.sh", "at-stop", FAKE_STATE="stopping").returncode == 0
    assert place.read_text() == "three\n"


@pytest.mark.skipif(not SSHD.exists(), reason="needs sshd")
def test_a_broken_ssh_configuration_is_taken_back(host: FakeHost) -> None:
    folder = host.prefix / "etc/ssh/sshd_config.d"
    good = (folder / "60-cxr.conf").read_bytes()
    new = host.prefix / "new"
    shutil.copytree(SCRIPTS, new)
    (new / "sshd-cxr.conf").write_text("Match User cxr\n    PermitOpenn 127.0.0.1:8477\n")
    answer = subprocess.run(
        ["bash", new / "install.sh"], env=host.environment(), capture_output=True, text=True, check=False
    )
    assert answer.returncode == 1
    assert "the old one stays" in answer.stderr
    assert (folder / "60-cxr.conf").read_bytes() == good
    assert not any("reload sshd" in call for call in host.calls)


@pytest.mark.skipif(not SSHD.exists(), reason="needs sshd")
def test_the_account_may_forward_to_the_worker_and_nothing_else(installed: FakeHost) -> None:
    """Ask sshd itself how it reads its configuration."""
    command = [
        SSHD,
        "-T",
        "-C",
        "user=cxr,host=h,addr=10.0.0.1",
        "-f",
        installed.prefix / "etc/ssh/sshd_config",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    said = dict(line.split(" ", 1) for line in answer.stdout.lower().splitlines() if " " in line)
    assert said["allowtcpforwarding"] == "local"
    assert said["permitopen"] == "127.0.0.1:8477"
    assert said["authenticationmethods"] == "publickey"
    for name in (
        "allowagentforwarding",
        "allowstreamlocalforwarding",
        "x11forwarding",
        "permittty",
        "permittunnel",
    ):
        assert said[name] == "no"
    assert said["forcecommand"].startswith("echo")
