"""Read the settings: from the command line, from `CXR_...` variables, from `cxr.toml`; nowhere else."""

import difflib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pipeline.errors import UsageError
from pipeline.outgoing.tables import TABLES, SendTables, secret_in
from pipeline.setting_types import (
    AeTitle,
    AeTitles,
    Level,
    Pairs,
    Printable,
    PublicKey,
    SshAddress,
    UserPath,
    Words,
    at_home,
)

FILE = "cxr.toml"
_NAMES_FILE = "CXR_CONFIG"


class _Group(BaseModel, defer_build=True):
    """Serve as the base of the groups, each a section of `cxr.toml`."""


class GeneralSettings(_Group):
    """Set where the X-rays are, and what is logged."""

    root: UserPath = Field(Path("data"), description="folder with `inbox/`, `outbox/` and the worklist")
    bucket: str | None = Field(
        None,
        description="S3 bucket to use instead of the folder; its worklist is the stack's DynamoDB table",
    )
    log_level: Level = Field(
        "WARNING", description="least level to log: `DEBUG`, `INFO`, `WARNING` or `ERROR`"
    )
    log_key: str = Field(
        default_factory=lambda: secrets.token_hex(16),
        description="secret key of the hash that replaces file names in logs",
        json_schema_extra={"shown": "random at each start"},
    )
    send: SendTables = Field((), description="PACS that get the results; a `[[send]]` table for each, below")


class PageSettings(_Group):
    """Set up the page that `cxr up` serves."""

    address: str = Field("127.0.0.1", description="address to listen on; one of a network needs users first")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    poll: bool = Field(False, description="scan the inbox instead of watching it; for network shares")
    users: UserPath | None = Field(
        None,
        description="file of the page's users, from `cxr password`; the page then asks for a password",
    )
    proxy_header: str | None = Field(
        None, description="header in which a reverse proxy names the user, instead of `users`"
    )
    proxy_addresses: Words = Field(
        ("127.0.0.1", "::1"),
        description="addresses or networks of the reverse proxies whose headers are trusted",
    )
    page_hosts: Words = Field(
        (), description="host names of the page besides `localhost`, such as `cxr.hospital.example`"
    )


class JudgingSettings(_Group):
    """Choose how images are judged."""

    weights: UserPath | None = Field(
        None, description="ONNX file of another network", json_schema_extra={"shown": "the shipped network"}
    )
    prevalence: float | None = Field(
        None,
        ge=0.001,
        le=0.999,
        description="share of pneumonia among your patients; P and both thresholds move with it",
        json_schema_extra={"shown": "that of the network's training"},
    )
    threads: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 8),
        gt=0,
        description="number of images to judge at a time",
        json_schema_extra={"shown": "one per core, at most 8"},
    )
    max_bytes: int = Field(
        64_000_000, gt=0, description="largest file in bytes; larger ones are refused unread"
    )
    max_pixels: int = Field(
        50_000_000, gt=0, description="largest image in pixels; larger ones are refused before decoding"
    )
    image_seconds: float = Field(
        20, gt=0, description="time limit for judging one image, in seconds; it has three tries"
    )
    image_memory: int = Field(
        1_500_000_000, ge=300_000_000, description="memory limit for judging one image, in bytes (Linux)"
    )
    keep_uid: bool = Field(False, description="put a DICOM file's SOP Instance UID into its verdict")
    burned_in_previews: bool = Field(
        False, description="write previews of DICOM images even if text, such as a name, may be burned in"
    )


class HostSettings(_Group):
    """Choose where images are judged."""

    host: Literal["local", "ssh", "ec2"] = Field(
        "local",
        description="`local`: this process, `ssh`: a machine of your own; the stack sets `ec2`",
    )
    ssh: SshAddress | None = Field(
        None, description='with `host = "ssh"`: `user@address` or `user@address:port` of the machine'
    )
    ssh_key: UserPath | None = Field(
        None, description="private key file for SSH", json_schema_extra={"shown": "the SSH agent's keys"}
    )
    ssh_host_key: PublicKey | None = Field(
        None, description="public key that the machine must have, `ssh-ed25519 AAAA...`"
    )
    worker_port: int = Field(
        8477, gt=0, lt=65536, description="port of `cxr worker` on its machine's loopback address"
    )
    worker_token: Printable | None = Field(
        None,
        min_length=16,
        description="secret of at least 16 characters that `cxr worker` asks its callers for; "
        "without it, they must be processes of its own user",
    )


class DicomSettings(_Group):
    """Set up the DICOM node of `cxr up`, which receives X-rays from a modality or a PACS."""

    dicom_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of the DICOM node, such as 11112; none without it; 0 picks a free one",
    )
    dicom_address: str = Field(
        "127.0.0.1", description="address to listen on; one of a network needs `dicom_callers`"
    )
    ae_title: AeTitle = Field("CXR-INBOX", description="AE title of the node, which senders must call")
    calling_ae_titles: AeTitles = Field(
        (),
        description="AE titles of the senders that may call",
        json_schema_extra={"shown": "any AE title"},
    )
    dicom_callers: Words = Field(
        ("127.0.0.1", "::1"), description="addresses or networks of the senders that may call"
    )
    dicom_certificate: UserPath | None = Field(
        None,
        description="TLS certificate of the node (PEM, with those between it and its authority)",
        json_schema_extra={"shown": "none: no TLS"},
    )
    dicom_key: UserPath | None = Field(None, description="file of that certificate's private key")
    dicom_client_ca: UserPath | None = Field(
        None, description="certificates of the authorities that a sender's own certificate must come from"
    )
    dicom_associations: int = Field(
        32, ge=1, le=500, description="most associations at a time; further ones are rejected for the moment"
    )
    dicom_idle_seconds: float = Field(
        60, gt=0, description="time limit for a sender's next message, in seconds"
    )
    dicom_total_seconds: float = Field(
        3600, gt=0, description="time limit for one association, or for one request to the page, in seconds"
    )


class StackSettings(_Group):
    """Describe the AWS stack; `cxr deploy` takes these where no option says otherwise."""

    stack: str = Field("cxr-inbox", description="name of the stack")
    region: str | None = Field(
        None, description="AWS region", json_schema_extra={"shown": "that of your AWS configuration"}
    )
    create_bucket: bool = Field(
        True, description="let `cxr deploy` create `bucket`; `false` to use a bucket that exists already"
    )
    instance_type: str | None = Field(
        None,
        description="EC2 type of the hosts",
        json_schema_extra={"shown": "`t3.medium`, or as it is"},
    )
    email: str | None = Field(None, description="mail address that gets the alarms")
    idle_minutes: float = Field(
        20, gt=0, description="minutes without a job after which an EC2 host powers itself off"
    )
    retention_days: int | None = Field(
        None,
        ge=0,
        description="days after which X-rays and verdicts are deleted; 0 keeps them",
        json_schema_extra={"shown": "0, or as it is"},
    )
    parameters: Pairs = Field(
        {}, description="other parameters of `template.yaml`: `{ MaximumConcurrency = 4 }`"
    )


class DeployedSettings(_Group):
    """Hold what the stack tells its functions and hosts, in variables alone."""

    queue_url: str | None = Field(None, description="SQS queue that brings a job again later")
    subnets: Words = Field((), description="subnets that a host may be launched in, in this order")
    instance_types: Words = Field((), description="EC2 types that a host may have, in this order")
    connect_endpoint: str | None = Field(None, description="Instance Connect Endpoint, `eice-...`")
    host_role_id: str = Field("", description="unique id of the hosts' role, `AROA...`")
    max_hosts: int = Field(1, ge=1, le=5, description="most hosts at a time")
    spot: bool = Field(False, description="launch Spot Instances where there is capacity")
    template_version: str = Field("$Latest", description="version of the launch template, to launch from")
    artifacts: str = Field("", description="bucket of the releases that a host installs")
    first_release: str = Field("", description="release that a host installs first, with its manifest's hash")
    host_id: str | None = Field(None, description="name of this EC2 host, `<role id>:<instance id>`")


# The sections of cxr.toml; "" stands for the keys above the first section.
SECTIONS: dict[str, type[BaseModel]] = {
    "": GeneralSettings,
    "page": PageSettings,
    "judging": JudgingSettings,
    "host": HostSettings,
    "dicom": DicomSettings,
    "stack": StackSettings,
}
_SECTION_OF = {key: section for section, group in SECTIONS.items() for key in group.model_fields}
_SECRETS = ("log_key", "worker_token")


class Settings(
    DeployedSettings,
    StackSettings,
    DicomSettings,
    HostSettings,
    JudgingSettings,
    PageSettings,
    GeneralSettings,
    BaseSettings,
):
    """Hold all settings; the field `threads` is the variable `CXR_THREADS`."""

    model_config = SettingsConfigDict(
        env_prefix="CXR_", env_ignore_empty=True, frozen=True, defer_build=False, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the strongest first: options, environment, file."""
        path = config_file()
        return init_settings, env_settings, *([_File(settings_cls, path)] if path else [])


class _File(TomlConfigSettingsSource):
    """Read the settings of a TOML file by section; raise UsageError with what is wrong in it."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        import tomllib

        try:
            text = file_path.read_text("utf-8-sig")
            mode = file_path.stat().st_mode
        except OSError as error:
            raise UsageError(f"{file_path} cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{file_path}: save it as UTF-8") from error
        try:
            values = _flatten(file_path, tomllib.loads(text))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            end = f"at the end, line {len(text.splitlines())}"
            wrong = _lower(str(error)).replace("at end of document", end)
            raise UsageError(f"{file_path} is not valid TOML: {wrong}") from error
        open_to_all = os.name == "posix" and mode & stat.S_IROTH
        secret = next((name for name in _SECRETS if name in values), None) or secret_in(values)
        if open_to_all and secret:
            raise UsageError(
                f"{file_path} holds {secret}, and every user of this machine can read it: chmod o-r "
                f"{file_path}, or set CXR_{secret.strip('[').partition(']')[0].upper()} instead"
            )
        return values


def config_file() -> Path | None:
    """Return the settings file: `CXR_CONFIG`, or `cxr.toml` of the current folder if it exists."""
    named = os.environ.get(_NAMES_FILE)
    path = at_home(Path(named or FILE))
    try:
        if path.is_file():
            return path
    except OSError:  # the current folder may not be readable
        pass
    if named:
        raise UsageError(f"{_NAMES_FILE}: there is no file {named}")
    return None


def _flatten(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the values of all sections by key; raise UsageError for an unknown section or key."""
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name in SECTIONS and not isinstance(value, dict):
            and_key = f", and {name} below it" if name in _SECTION_OF else ""
            raise UsageError(f"{path}: {name} is a section: write [{name}] on a line of its own{and_key}")
        if isinstance(value, dict) and name in TABLES:
            raise UsageError(f"{path}: write [[{name}]], with two brackets: there may be several")
        if isinstance(value, dict) and name not in SECTIONS:
            near = difflib.get_close_matches(name, [section for section in SECTIONS if section], 1)
            advice = f"did you mean [{near[0]}]?" if near else _whereabouts(name, "")
            raise UsageError(f"{path}: [{name}] is not a section: {advice}")
        section, pairs = (name, value) if name in SECTIONS else ("", {name: value})
        for key in pairs:
            if _SECTION_OF.get(key) != section:
                shown = f"[{section}] {key}" if section else key
                raise UsageError(f"{path}: {shown} is not a setting: {_whereabouts(key, section)}")
        values |= pairs
    return {key: value for key, value in values.items() if value != ""}  # like empty variables


def _whereabouts(key: str, section: str) -> str:
    """Say what a key that does not belong in a section may have been meant to be."""
    if key in DeployedSettings.model_fields:
        return f"the stack sets it, as CXR_{key.upper()}"
    found = difflib.get_close_matches(key.lower().removeprefix("cxr_"), _SECTION_OF, 1, cutoff=0.7)
    if not found:
        return "docs/settings.md lists them all"
    there = _SECTION_OF[found[0]]
    place = f"in [{there}]" if there else "above the first section"
    where = "" if there == section else f" {place}"
    return f"it belongs {place}" if found[0] == key else f"did you mean {found[0]}{where}?"


_KNOWN = {f"CXR_{name.upper()}" for name in Settings.model_fields} | {_NAMES_FILE}
# Variables of the scripts in ec2_runner/host/machine/, whose environment the worker shares.
_OF_SCRIPTS = {"CXR_PREFIX", "CXR_PYTHON", "CXR_PAUSE", "CXR_ACCOUNT"}
_OF_SCRIPTS |= {"CXR_SAMPLES"}  # the synthetic samples, for scripts that make test files
# Settings of earlier releases, with the value that implies a bucket. A host launched by an earlier
# release still has them in its environment; they are ignored where they match the bucket setting.
_RETIRED = {"CXR_STORE": "s3", "CXR_INDEX": "dynamodb"}


def _check_names() -> None:
    """Raise UsageError for a variable that looks like a setting but is none: it would have no effect."""
    for name in sorted(os.environ):
        if not name.upper().startswith("CXR_") or name.upper() in _KNOWN | _OF_SCRIPTS | _RETIRED.keys():
            continue
        near = difflib.get_close_matches(name.upper(), sorted(_KNOWN), 1, cutoff=0.7)
        advice = f"did you mean {near[0]}?" if near else "docs/settings.md lists all settings; unset it"
        raise UsageError(f"{name} is not a setting: {advice}")


def _check_retired(settings: Settings) -> None:
    """Raise UsageError where a variable of an earlier release asks for something that would not happen."""
    for name, of_bucket in _RETIRED.items():
        value = os.environ.get(name)
        if not value or (value == of_bucket) == (settings.bucket is not None):
            continue
        instead = "name it in CXR_BUCKET or with --bucket" if value == of_bucket else "name no bucket"
        raise UsageError(f"{name} is no longer a setting: unset it; for {value}, {instead}")


def load_settings(**changes: object) -> Settings:
    """Return the settings, with changes from the command line; raise UsageError that names a wrong one."""
    _check_names()
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        wrong = _lower(first["msg"].removeprefix("Value error, "))
        name, *inner = first["loc"]
        place = "".join(f" number {one + 1}" if isinstance(one, int) else f", {one}" for one in inner)
        raise UsageError(f"{_origin(str(name), given)}{place if name in TABLES else ''}: {wrong}") from error
    _check_retired(settings)
    for needs, name, instead in (
        (settings.host == "ssh", "ssh", "as user@address, or use CXR_HOST=local"),
        (settings.host == "ssh", "ssh_host_key", "as the machine's /etc/ssh/ssh_host_ed25519_key.pub has it"),
        (settings.host == "ec2", "bucket", "for the hosts to publish their state"),
        (settings.host == "ec2", "subnets", "to launch a host in"),
        (settings.host == "ec2", "instance_types", "for the hosts"),
    ):
        if needs and not getattr(settings, name):
            raise UsageError(f"CXR_{name.upper()} is needed {instead}")
    return settings


def _origin(name: str, given: Mapping[str, object]) -> str:
    """Name a setting as the user wrote it: as an option, a variable, or a key of the file."""
    if name in given:
        return f"--{name.replace('_', '-')}"
    variable = f"CXR_{name.upper()}"
    if any(value for key, value in os.environ.items() if key.upper() == variable):
        return variable
    section = _SECTION_OF.get(name)
    return f"{config_file()}: {f'[{section}] ' if section else ''}{name}"


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
