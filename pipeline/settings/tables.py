"""Define the tables of the settings that name destinations, `[[send]]` and `[[notify]]`, and their rule."""

import base64
import binascii
import json
import re
import unicodedata
from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode

from pipeline.records import Row
from pipeline.settings.types import AeTitle, UserPath, ae_title_of
from pipeline.verdict import Label, Status, Warning

SECRET_KEYS = ("password", "token", "secret")  # of a table
_PORTS = {"dicom": 104, "dicoms": 2762}  # usual ones, without TLS and with it
_WEB = ("http", "https")
_PLAIN_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]{1,2000}", re.IGNORECASE)
_KEY_BYTES = range(24, 65)  # of Standard Webhooks
_SECRET = "whsec_"
_HOST_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
_TOKEN = re.compile(r"[!-~]+")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")


class Rule(BaseModel):
    """Choose verdicts: each of the lists that is not empty has to hold one of the verdict's words."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    labels: tuple[Label, ...] = Field(
        (),
        description="only verdicts with one of these labels: `normal`, `pneumonia`, `uncertain`",
        json_schema_extra={"shown": "all"},
    )
    statuses: tuple[Status, ...] = Field(
        (),
        description="only verdicts with one of these: `classified`, `rejected`, `failed`",
        json_schema_extra={"shown": "all"},
    )
    warnings: tuple[Warning, ...] = Field(
        (),
        description="only verdicts with one of these warnings, such as `other_population`",
        json_schema_extra={"shown": "all"},
    )

    def covers(self, row: Row) -> bool:
        """Return whether the verdict of a row is one of those."""
        return (
            (not self.labels or row.label in self.labels)
            and (not self.statuses or row.status in self.statuses)
            and (not self.warnings or bool(set(self.warnings) & set(row.warnings)))
        )


def _destination_name(given: str) -> str:
    if not _SAFE_NAME.fullmatch(given):
        raise ValueError("use at most 40 letters, digits, spaces and the signs . _ -")
    return given


def _address(given: str) -> str:
    _text(given)
    parts = _split(given)
    if not _is_host(parts.hostname or ""):
        raise ValueError("its host is no name or address: write letters, digits, dots and hyphens there")
    if parts.scheme in _PORTS:
        if (
            not parts.username
            or parts.password is not None
            or parts.path.strip("/")
            or parts.query
            or parts.fragment
        ):
            raise ValueError("write dicom://AETITLE@host:port, or dicoms:// for TLS")
        ae_title_of(unquote(parts.username))
    elif "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("write https://host/dicom-web; user and password have settings of their own")
    elif parts.scheme == "http" and not _is_here(parts.hostname or ""):
        raise ValueError("patients' names would be readable on the network: use https://")
    return given


def _text(given: str) -> str:
    if not given or any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in given):
        raise ValueError("it is empty, or holds a line break or another control character")
    return given


def _token(given: str) -> str:
    if not _TOKEN.fullmatch(given):
        raise ValueError("write a token of ASCII letters, digits and signs, without spaces")
    return given


def _is_host(host: str) -> bool:
    """Return whether this is an address, or may be the name of a host."""
    try:
        return bool(ip_address(host))
    except ValueError:
        pass
    try:
        name = host.encode("idna").decode().removesuffix(".")
    except UnicodeError:
        return False
    return len(name) <= 253 and all(map(_HOST_LABEL.fullmatch, name.split(".")))


def _split(given: str) -> SplitResult:
    """Split an address; raise ValueError for one that names no host, or is of another kind."""
    try:
        parts = urlsplit(given)
        fits = parts.scheme in (*_PORTS, "http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("write dicom://AETITLE@host:port, dicoms://AETITLE@host:port or https://host/path")
    return parts


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SendTo(Rule):
    """Name a PACS that gets the results: one `[[send]]` table."""

    name: Annotated[str, AfterValidator(_destination_name)] = Field(description="its name on the page")
    to: Annotated[str, AfterValidator(_address)] = Field(
        description="`dicom://AETITLE@host:port` (C-STORE), `dicoms://...` (with TLS), or "
        "`https://host/dicom-web` (STOW-RS)"
    )
    ae_title: AeTitle | None = Field(
        None, description="AE title of ours", json_schema_extra={"shown": "that of the DICOM node"}
    )
    ca: UserPath | None = Field(
        None,
        description="certificates of the authorities that the PACS's own must come from (TLS)",
        json_schema_extra={"shown": "those of the system"},
    )
    certificate: UserPath | None = Field(None, description="our own certificate (TLS, PEM)")
    key: UserPath | None = Field(None, description="file of that certificate's private key")
    user: Annotated[str, AfterValidator(_text)] | None = Field(None, description="user name, with `https://`")
    password: Annotated[str, AfterValidator(_text)] | None = Field(
        None, repr=False, description="the user's password"
    )
    token: Annotated[str, AfterValidator(_token)] | None = Field(
        None, repr=False, description="token for `Authorization: Bearer`, instead of a user"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        scheme = self.parts.scheme
        of_web = [word for word in ("user", "password", "token") if getattr(self, word) is not None]
        of_tls = [word for word in ("ca", "certificate", "key") if getattr(self, word) is not None]
        if scheme in _PORTS and of_web:
            raise ValueError(f"{of_web[0]} is for https:// alone")
        if scheme not in _PORTS and self.ae_title:
            raise ValueError("ae_title is for dicom:// and dicoms:// alone")
        if scheme in ("dicom", "http") and of_tls:
            raise ValueError(f"{of_tls[0]} needs TLS: write {scheme}s://")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        if (self.user is None) != (self.password is None) or (self.user and self.token):
            raise ValueError("name user and password, or a token")
        return self

    @property
    def parts(self) -> SplitResult:
        """Return the parts of the address."""
        return urlsplit(self.to)

    @property
    def peer(self) -> tuple[str, str, int]:
        """Return AE title, host and port of a DICOM node."""
        parts = self.parts
        title, host = ae_title_of(unquote(parts.username or "")), unquote(parts.hostname or "")
        return title, host, parts.port or _PORTS[parts.scheme]


def _notify_address(given: str) -> str:
    """Check what can be checked without apprise; no message repeats the address, which may hold a secret."""
    if not _PLAIN_ADDRESS.fullmatch(given):
        raise ValueError("write https://host/path, or an address of apprise such as mailto://...")
    try:
        parts = urlsplit(given)
        fits = parts.scheme not in _WEB or (_is_host(parts.hostname or "") and parts.port != 0)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("this is no address: write https://host/path")
    if parts.scheme in _WEB and ("@" in parts.netloc or parts.fragment):
        raise ValueError("write https://host/path; notices are signed, so they need no user and password")
    if parts.scheme == "http" and not _is_here(parts.hostname or ""):
        raise ValueError("notices would be readable on the network: use https://")
    return given


def _key_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_SECRET) or len(key) not in _KEY_BYTES:
        raise ValueError("write whsec_ and 24 to 64 random bytes in base64, as of `openssl rand -base64 32`")
    return key


def _webhook_secret(given: str) -> str:
    _key_of(given)
    return given


class NotifyTo(Rule):
    """Name a program or people that get notices: one `[[notify]]` table."""

    name: Annotated[str, AfterValidator(_destination_name)] = Field(description="its name on the page")
    to: Annotated[str, AfterValidator(_notify_address)] = Field(
        repr=False,
        description="`https://host/path` (webhook), or an address of apprise, such as `mailto://...`",
    )
    secret: Annotated[str, AfterValidator(_webhook_secret)] | None = Field(
        None, repr=False, description="key of a webhook's signatures: `whsec_` and base64; needed there"
    )
    ca: UserPath | None = Field(
        None,
        description="certificates of the authorities that the webhook's own must come from",
        json_schema_extra={"shown": "those of the system"},
    )
    with_name: bool = Field(False, description="put the X-ray's name into notices to a webhook")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.is_webhook and self.secret is None:
            raise ValueError("a webhook needs a secret: whsec_ and the output of `openssl rand -base64 32`")
        for word in () if self.is_webhook else ("secret", "ca", "with_name"):
            if getattr(self, word):
                raise ValueError(f"{word} is for https:// alone")
        if self.parts.scheme == "http" and self.ca:
            raise ValueError("ca needs TLS: write https://")
        return self

    @property
    def parts(self) -> SplitResult:
        """Return the parts of the address."""
        return urlsplit(self.to)

    @property
    def is_webhook(self) -> bool:
        """Return whether a program gets signed JSON, not people a message by apprise."""
        return self.to.partition(":")[0].lower() in _WEB

    @property
    def signing_key(self) -> bytes:
        """Return the key of a webhook's signatures."""
        return _key_of(self.secret or "")


def _tables(kind: str) -> Callable[[Any], Any]:
    def read(given: Any) -> Any:
        try:
            found = json.loads(given) if isinstance(given, str) else given
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list | tuple):
            raise ValueError(f"write [[{kind}]] tables; in a variable, a JSON list of objects")
        return found

    return read


_Table = TypeVar("_Table", SendTo, NotifyTo)


def _distinct(tables: tuple[_Table, ...]) -> tuple[_Table, ...]:
    if len({table.name for table in tables}) < len(tables):
        raise ValueError("two of them have the same name")
    return tables


SendTables = Annotated[
    tuple[SendTo, ...], NoDecode, BeforeValidator(_tables("send")), AfterValidator(_distinct)
]
NotifyTables = Annotated[
    tuple[NotifyTo, ...], NoDecode, BeforeValidator(_tables("notify")), AfterValidator(_distinct)
]
TABLES: dict[str, type[BaseModel]] = {"send": SendTo, "notify": NotifyTo}  # by their key in cxr.toml


def secret_in(values: dict[str, Any]) -> str | None:
    """Return a secret that the tables of a settings file hold, such as `[[send]] password`; None without."""
    for kind in TABLES:
        tables = values.get(kind)
        for table in tables if isinstance(tables, list) else ():
            if not isinstance(table, dict):
                continue
            found = [key for key in SECRET_KEYS if key in table]
            if kind == "notify" and not str(table.get("to", "")).lower().startswith(("http:", "https:")):
                found.append("to")  # addresses of apprise hold passwords and tokens
            if found:
                return f"[[{kind}]] {found[0]}"
    return None
