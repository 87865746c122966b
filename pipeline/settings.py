"""The settings: `CXR_...` variables of the environment, read here and nowhere else."""

import os
import secrets
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipeline.errors import UsageError


class Settings(BaseSettings):
    """Where the parts are and what they may use. Each field is the variable `CXR_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="CXR_", env_ignore_empty=True, frozen=True)

    store: Literal["folder", "s3"] = Field("folder", description="where inbox and outbox are")
    root: Path = Field(
        Path("data"), description="the folder of local mode: `inbox/`, `outbox/`, the worklist"
    )
    bucket: str | None = Field(None, description="the bucket, when the store is `s3`")
    max_bytes: int = Field(64_000_000, gt=0, description="larger files are refused unread")
    max_pixels: int = Field(50_000_000, gt=0, description="larger images are refused before they are decoded")
    threads: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 8), gt=0, description="images judged at a time"
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
    log_key: str = Field(
        default_factory=lambda: secrets.token_hex(16),
        description="secret of the hash that stands for file names in logs; random at each start if not set",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("WARNING", description="what is logged")


def load_settings(**changes: object) -> Settings:
    """The settings of the environment, with changes from the command line; UsageError names a wrong one."""
    try:
        settings = Settings(**{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"CXR_{name}: {first['msg'].lower()}") from error
    if settings.store == "s3" and not settings.bucket:
        raise UsageError("CXR_BUCKET: name the bucket, or use CXR_STORE=folder")
    return settings
