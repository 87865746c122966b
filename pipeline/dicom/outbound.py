"""Send the DICOM objects of verdicts to a PACS: what the ways of sending have in common."""

import ssl
from pathlib import Path

from pipeline.errors import NoResult, ResultFailed, ResultOutdated, UsageError
from pipeline.outgoing.delivery import Delivery, NothingToSend, TryAgain
from pipeline.ports import Results
from pipeline.records import DicomObject
from pipeline.settings.tables import SendTo

_DICOM = "application/dicom"


def objects_of(results: Results, delivery: Delivery) -> list[DicomObject]:
    """Return the objects of a verdict; raise NothingToSend where there are none, TryAgain for a while."""
    media_type = delivery.verdict.source.media_type
    if media_type not in (None, _DICOM):
        raise NothingToSend
    try:
        return results.make(delivery.key, delivery.verdict_etag)
    except (ResultOutdated, ResultFailed) as error:
        raise TryAgain(str(error)) from error
    except NoResult as error:
        raise NothingToSend(str(error)) from error


def tls_of(table: SendTo) -> ssl.SSLContext:
    """Return the terms of TLS with a PACS; raise UsageError if its files cannot be used."""
    try:
        context = ssl.create_default_context(cafile=table.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if table.certificate:
            context.load_cert_chain(table.certificate, table.key, password=_no_password)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the TLS files of [[send]] {table.name} cannot be used: {why}") from error
    return context


def check_files(*paths: Path | None) -> None:
    """Raise UsageError for a file that does not exist."""
    for path in paths:
        if path and not path.is_file():
            raise UsageError(f"[[send]]: there is no file {path}")


def _no_password() -> str:
    raise ValueError("the key has a password; remove it with openssl")
