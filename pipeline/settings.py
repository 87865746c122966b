"""The settings: `CXR_...` variables of the environment, read here and nowhere else."""

import difflib
import os
import secrets
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipeline.errors import UsageError


def _split(words: object) -> object:
    return tuple(word.strip() for word in words.split(",")) if isinstance(words, str) else words


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Where the parts are and what they may use. Each field is the variable `CXR_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="CXR_", env_ignore_empty=True, frozen=True)

    store: Literal["folder", "s3"] = Field("folder", description="where inbox and outbox are")
    root: Path = Field(
        Path("data"), description="the folder of local mode: `inbox/`, `outbox/`, the worklist"
    )
    bucket: str | None = Field(None, description="the bucket, when the store is `s3`")
    index: Literal["sqlite", "dynamodb"] = Field("sqlite", description="where the worklist is")
    host: Literal["local", "ssh", "ec2"] = Field(
        "local", description="what judges: this process, a machine reached by SSH, or an EC2 instance"
    )
    stack: str = Field(
        "cxr-inbox", description="the AWS stack; its tables are `<stack>-index`, `<stack>-lease`"
    )
    region: str | None = Field(None, description="the AWS region; by default that of your AWS configuration")
    queue_url: str | None = Field(None, description="the SQS queue that brings a job again later")
    ssh: str | None = Field(None, description="`user@address` or `user@address:port` of the host `ssh`")
    ssh_key: Path | None = Field(
        None, description="the private key's file; without it, the SSH agent is asked"
    )
    ssh_host_key: str | None = Field(
        None, description="the only public key that the host `ssh` may have: `ssh-ed25519 AAAA...`"
    )
    worker_port: int = Field(8477, gt=0, lt=65536, description="of `cxr worker`, on its machine's loopback")
    worker_token: str | None = Field(
        None,
        min_length=16,
        pattern=r"^[!-~]+$",
        description="secret that `cxr worker` asks of those who send it jobs; "
        "without it, they have to be of its own user",
    )
    idle_minutes: float = Field(20, gt=0, description="without a job, before an EC2 host powers itself off")
    subnets: Words = Field((), description="EC2: where a host may be launched, in this order")
    instance_types: Words = Field((), description="EC2: the types of a host, in this order")
    connect_endpoint: str | None = Field(None, description="EC2: the Instance Connect Endpoint, `eice-...`")
    connect_url: str | None = Field(None, description="EC2: the endpoint's address; by default AWS is asked")
    host_role_id: str = Field("", description="EC2: the unique id of the hosts' role, `AROA...`")
    host_user: str = Field("cxr", description="EC2: the user of the hosts' system whom SSH lets in")
    host_id: str | None = Field(
        None, description="on an EC2 host, what it is called: `<role id>:<instance id>`"
    )
    host_key_file: Path = Field(
        Path("/etc/ssh/ssh_host_ed25519_key.pub"),
        description="on an EC2 host, the key that it publishes",
    )
    max_bytes: int = Field(64_000_000, gt=0, description="larger files are refused unread")
    max_pixels: int = Field(50_000_000, gt=0, description="larger images are refused before they are decoded")
    threads: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 8), gt=0, description="images judged at a time"
    )
    image_seconds: float = Field(
        20, gt=0, description="an image that takes longer to judge is given up, after three tries"
    )
    image_memory: int = Field(
        1_500_000_000, ge=300_000_000, description="bytes of memory that judging one image may take (Linux)"
    )
    prevalence: float | None = Field(
        None,
        ge=0.001,
        le=0.999,
        description="share of pneumonia among your patients; P and both thresholds move with it",
    )
    weights: Path | None = Field(None, description="another ONNX file than the shipped one")
    keep_uid: bool = Field(False, description="a DICOM file's SOP Instance UID goes into its verdict")
    burned_in_previews: bool = Field(
        False, description="previews also of DICOM images that may have text burned in, such as a name"
    )
    users: Path | None = Field(
        None, description="the page's users: the file that `cxr password` writes; it then asks who they are"
    )
    proxy_header: str | None = Field(
        None, description="instead of them: the header in which a reverse proxy names the page's user"
    )
    proxy_addresses: Words = Field(
        ("127.0.0.1", "::1"),
        description="the reverse proxies, or their networks, that are believed that and `X-Forwarded-For`",
    )
    page_hosts: Words = Field(
        (), description="host names of the page besides `localhost`: `cxr.hospital.example`"
    )
    log_key: str = Field(
        default_factory=lambda: secrets.token_hex(16),
        description="secret of the hash that stands for file names in logs; random at each start if not set",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("WARNING", description="what is logged")


_KNOWN = {f"CXR_{name.upper()}" for name in Settings.model_fields}
# Of the scripts in ec2_runner/host/machine/, whose environment the worker has, too.
_OF_SCRIPTS = {"CXR_PREFIX", "CXR_PYTHON", "CXR_PAUSE", "CXR_ACCOUNT"}
_OF_SCRIPTS |= {"CXR_SAMPLES"}  # where scripts that make test files find the synthetic samples


def _check_names() -> None:
    """Raise UsageError for a variable that looks like a setting and is none: it would change nothing."""
    for name in sorted(os.environ):
        if not name.upper().startswith("CXR_") or name.upper() in _KNOWN | _OF_SCRIPTS:
            continue
        near = difflib.get_close_matches(name.upper(), sorted(_KNOWN), 1, cutoff=0.7)
        advice = f"did you mean {near[0]}?" if near else "the README lists those there are; unset it"
        raise UsageError(f"{name} is no setting: {advice}")


def load_settings(**changes: object) -> Settings:
    """The settings of the environment, with changes from the command line; UsageError names a wrong one."""
    _check_names()
    try:
        settings = Settings(**{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"CXR_{name}: {first['msg'].lower()}") from error
    for needs, name, instead in (
        (settings.store == "s3", "bucket", "or use CXR_STORE=folder"),
        (settings.host == "ssh", "ssh", "as user@address, or use CXR_HOST=local"),
        (settings.host == "ssh", "ssh_host_key", "as the machine's /etc/ssh/ssh_host_ed25519_key.pub has it"),
        (settings.host == "ec2", "bucket", "in which the hosts say that they are ready"),
        (settings.host == "ec2", "subnets", "in which a host may be launched"),
        (settings.host == "ec2", "instance_types", "that a host may have"),
    ):
        if needs and not getattr(settings, name):
            raise UsageError(f"CXR_{name.upper()}: it is needed, {instead}")
    return settings
