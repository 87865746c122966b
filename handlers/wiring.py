"""The one place where adapters are chosen; nothing is made before the first event."""

import logging
import sys

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers

from pipeline.errors import UsageError
from pipeline.folder import PRIVATE, FolderStore
from pipeline.intake import Ports
from pipeline.ports import Store
from pipeline.settings import Settings, load_settings
from pipeline.sqlite import SqliteIndex
from pipeline.verdict import Release

_chosen: Ports | None = None
_logger: Logger | None = None


def ports() -> Ports:
    """What the handlers work with: what was provided, else what the settings of the environment ask for."""
    global _chosen  # a Lambda sandbox keeps it between its invocations
    if _chosen is None:
        _chosen = make_ports(load_settings())
    return _chosen


def provide(chosen: Ports | None) -> None:
    """Make the handlers work with these; None has them chosen anew."""
    global _chosen
    _chosen = chosen


def make_ports(settings: Settings) -> Ports:
    """The adapters that the settings ask for."""
    from ec2_runner.worker import make_worker  # the network and its runtime, where the host is this process

    store = make_store(settings)
    release = Release()
    host = make_worker(store, settings, release)
    return Ports(store, make_index(settings), host, release, settings.log_key)


def make_store(settings: Settings) -> Store:
    """The folder, or the bucket."""
    if settings.store == "folder":
        return FolderStore(settings.root)
    try:
        import boto3

        from pipeline.s3 import S3Store
    except ImportError as error:
        raise UsageError("a bucket needs the AWS parts: pip install 'cxr-inbox[aws]'") from error

    assert settings.bucket is not None  # load_settings has checked
    return S3Store(settings.bucket, boto3.client("s3"))


def make_index(settings: Settings) -> SqliteIndex:
    """The worklist."""
    return SqliteIndex(settings.root / PRIVATE / "index.sqlite")


def logger() -> Logger:
    """JSON lines on standard error, in which a hash stands for a
    file's name; the pipeline's loggers join in.
    """
    global _logger
    if _logger is None:
        logging.getLogger("pipeline")  # exists before it is asked to join
        _logger = Logger(service="cxr-inbox", level=load_settings().log_level, stream=sys.stderr)
        copy_config_to_registered_loggers(_logger, include={"pipeline"})
    return _logger
