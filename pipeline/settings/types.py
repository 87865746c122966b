"""Check and convert single values of the settings."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode


def _split(words: object) -> object:
    return tuple(word.strip() for word in words.split(",")) if isinstance(words, str) else words


def _pairs(given: object) -> object:
    if isinstance(given, str):
        parts = [part.partition("=") for part in given.split(",")]
        if any(not mark for _, mark, _ in parts):
            raise ValueError("write NAME=VALUE,NAME=VALUE")
        return {name.strip(): value.strip() for name, _, value in parts}
    if isinstance(given, Mapping):  # TOML has numbers and booleans, CloudFormation only text
        return {name: _text(value) for name, value in given.items()}
    return given


def _text(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _ssh_address(given: str) -> str:
    found = SSH_ADDRESS.fullmatch(given)
    if found is None or not 0 < int(found["port"] or 22) < 65536:
        raise ValueError("write user@address or user@address:port, an IPv6 address in [brackets]")
    return given


def _public_key(given: str) -> str:
    if len(given.split()) < 2:
        raise ValueError("write the kind and the key, `ssh-ed25519 AAAA...`, as the .pub file has them")
    return given


def _web_address(given: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+(/[!-~]*)?", given) or set("?#") & set(given):
        raise ValueError("write https://host or https://host/path")
    return given


def ae_title_of(given: str) -> str:
    """Return an AE title without the spaces around it; raise ValueError if it is none."""
    title = given.strip()
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", title):
        raise ValueError("an AE title has 1 to 16 letters, digits and signs, without a backslash")
    return title


def _ae_titles(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(ae_title_of, given))


def _printable(secret: str) -> str:
    if not all("!" <= letter <= "~" for letter in secret):
        raise ValueError("use printable ASCII characters without spaces")
    return secret


def _upper(word: object) -> object:
    return word.upper() if isinstance(word, str) else word


def at_home(path: Path) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises for an unknown user


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Pairs = Annotated[dict[str, str], NoDecode, BeforeValidator(_pairs)]
SSH_ADDRESS = re.compile(
    r"(?P<user>[^@\s]+)@(\[(?P<v6>[\da-fA-F:.]+)\]|(?P<host>[^:@\s\[\]]+))(:(?P<port>\d{1,5}))?"
)
UserPath = Annotated[Path, AfterValidator(at_home)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
SshAddress = Annotated[str, AfterValidator(_ssh_address)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
Printable = Annotated[str, AfterValidator(_printable)]
AeTitle = Annotated[str, AfterValidator(ae_title_of)]
AeTitles = Annotated[Words, AfterValidator(_ae_titles)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
