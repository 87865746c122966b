"""Read the settings: from the command line, from `CXR_...` variables, from `cxr.toml`; nowhere else."""

import difflib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pipeline.errors import UsageError
from pipeline.settings.groups import (
    DeployedSettings,
    DicomSettings,
    GeneralSettings,
    HostSettings,
    JudgingSettings,
    PageSettings,
    StackSettings,
)
from pipeline.settings.tables import TABLES, secret_in
from pipeline.settings.types import at_home

FILE = "cxr.toml"
_NAMES_FILE = "CXR_CONFIG"


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
