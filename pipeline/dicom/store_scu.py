"""Send results by C-STORE, and ask for storage commitment where the PACS offers it; by pynetdicom."""

import io
import logging
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.status import code_to_category

from pipeline.dicom.commitment import COMMITMENT, COMMITMENT_INSTANCE, CommitmentReports, new_transaction
from pipeline.dicom.outbound import objects_of
from pipeline.outgoing.delivery import Awaiting, Delivery, DestinationDown, TryAgain
from pipeline.ports import Results

log = logging.getLogger(__name__)
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # its lines quote data sets

_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 30.0
_TOTAL_SECONDS = 300.0  # for one delivery
_REPORT_SECONDS = 0.3  # for a report on the same association; a later one comes on another
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_REQUEST_COMMITMENT = 1  # type of the action
_REFUSED = (0x0112, 0x0118, 0x0122, 0x0123, 0x0124, 0x0211)  # commitment itself: not known, not to us
_MOST_REFUSALS, _MOST_ABORTS = 2, 5  # in a row; Orthanc aborts, and so does a PACS that is being stopped
_NO_ROOM, _IS_THERE = range(0xA700, 0xA800), 0x0111
_SILENT = "it does not answer"
_BROKEN = "the connection broke off"


@dataclass(frozen=True)
class Peer:
    """Hold where a PACS is, what it and we are called there, and the terms of TLS."""

    title: str
    host: str
    port: int
    our_title: str
    tls: ssl.SSLContext | None = None


class StoreScu:
    """Send to a PACS by C-STORE; a destination of the queue. With `reports`, commitment is asked for."""

    def __init__(self, name: str, peer: Peer, results: Results, reports: CommitmentReports | None) -> None:
        self.name, self._peer, self._results, self._reports = name, peer, results, reports
        self._refusals = self._aborts = 0  # of requests for commitment, in a row
        self._ae = _Entity(peer.our_title)
        self._ae.connection_timeout = _CONNECT_SECONDS
        self._ae.acse_timeout = self._ae.dimse_timeout = self._ae.network_timeout = _ANSWER_SECONDS

    def deliver(self, delivery: Delivery) -> Awaiting | None:
        """Send the objects of a verdict; see `pipeline.outgoing.delivery.Destination`."""
        made = [dcmread(io.BytesIO(one.data)) for one in objects_of(self._results, delivery)]
        line = _Line()
        with self._association(made, line) as association:
            for one in made:
                self._store(association, one)
            if self._reports is None or not _offers_commitment(association):
                return None
            return self._ask(association, made, line)

    @contextmanager
    def _association(self, made: Sequence[Dataset], line: "_Line") -> Iterator[Association]:
        contexts = [(one.SOPClassUID, _SYNTAXES) for one in made]
        if self._reports is not None:
            contexts.append((COMMITMENT, _SYNTAXES))
        self._ae.requested_contexts = []
        for sop_class, syntaxes in contexts:
            self._ae.add_requested_context(sop_class, syntaxes)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, line.opened),
            (evt.EVT_PDU_RECV, line.heard),
            (evt.EVT_N_EVENT_REPORT, self._take_report, [line.reported]),
        ]
        peer = self._peer
        watch = threading.Timer(_TOTAL_SECONDS, line.cut)
        watch.daemon = True
        watch.start()
        try:
            try:
                association = self._ae.associate(
                    peer.host,
                    peer.port,
                    ae_title=peer.title,
                    tls_args=(peer.tls, peer.host) if peer.tls else None,
                    evt_handlers=handlers,
                )
            except (socket.gaierror, UnicodeError):
                raise DestinationDown("its name cannot be found") from None
            except OSError as error:
                raise DestinationDown(f"it cannot be reached: {error.strerror}") from None
            if not association.is_established:
                raise DestinationDown(_why_not(association, peer, line.was_opened))
            yield association
            association.release()
        finally:
            watch.cancel()
            if line.was_opened:
                association.abort()
            line.cut()

    def _store(self, association: Association, one: Dataset) -> None:
        try:
            answer = association.send_c_store(one)
        except ValueError as error:
            raise TryAgain(f"it does not accept the class {one.SOPClassUID.name}") from error
        except RuntimeError as error:
            raise DestinationDown(_BROKEN) from error
        if "Status" not in answer:
            raise DestinationDown(_BROKEN if not association.is_established else _SILENT)
        status = int(answer.Status)
        if status == _IS_THERE or code_to_category(status) in ("Success", "Warning"):
            return  # the UIDs of results stay the same, so what is there is what we sent
        if status in _NO_ROOM:
            raise DestinationDown(f"it has no room (status {status:04X})")
        raise TryAgain(f"it refused the {one.SOPClassUID.name} with status {status:04X}")

    def _ask(self, association: Association, made: Sequence[Dataset], line: "_Line") -> Awaiting | None:
        """Ask for commitment; return None if the PACS offers it, but not to us, as Orthanc does."""
        asked, transaction = Dataset(), new_transaction(one.SOPInstanceUID for one in made)
        asked.TransactionUID, asked.ReferencedSOPSequence = transaction, []
        for one in made:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
            asked.ReferencedSOPSequence.append(item)
        try:
            answer, _ = association.send_n_action(asked, _REQUEST_COMMITMENT, COMMITMENT, COMMITMENT_INSTANCE)
        except RuntimeError:  # the association is over
            raise TryAgain(_BROKEN) from None
        status = int(answer.Status) if "Status" in answer else None
        if status is not None and code_to_category(status) in ("Success", "Warning"):
            self._refusals = self._aborts = 0
            line.reported.wait(_REPORT_SECONDS)
            return Awaiting(transaction)
        self._refusals = self._refusals + 1 if status in _REFUSED else 0
        self._aborts = self._aborts + 1 if status is None and line.was_aborted else 0
        if self._refusals < _MOST_REFUSALS and self._aborts < _MOST_ABORTS:
            how = "broke off" if status is None else f"answered with status {status:04X}"
            raise TryAgain(f"it took the result, but {how} when it was asked whether it keeps it")
        if (self._refusals, self._aborts) in ((_MOST_REFUSALS, 0), (0, _MOST_ABORTS)):
            log.warning(
                "%s refuses storage commitment, so that what it stores counts as delivered: enter %s and the "
                "port of the DICOM node there",
                *(self.name, self._peer.our_title),
            )
        return None

    def _take_report(self, event: Any, reported: threading.Event) -> tuple[int, None]:
        """Take a report on the association on which it was asked for; return the status to answer with."""
        assert self._reports is not None  # otherwise the class was not asked for
        data = event.request.EventInformation.getvalue()
        reply = self._reports.take(data, event.context.transfer_syntax, event.event_type)
        reported.set()
        return reply.code, None


class _Entity(AE):
    """Associate with threads that do not keep a program from ending."""

    def _create_socket(self, assoc: Association, *arguments: Any) -> Any:
        assoc.dul.daemon = True
        return super()._create_socket(assoc, *arguments)


class _Line:
    """Hold the socket of an association, since pynetdicom sets no limit to sending; and what came over it."""

    def __init__(self) -> None:
        self.reported, self.was_aborted = threading.Event(), False
        self._socket: socket.socket | None = None

    @property
    def was_opened(self) -> bool:
        """Return whether there was a connection."""
        return self._socket is not None

    def opened(self, event: Any) -> None:
        """Limit each step on a new connection."""
        self._socket = event.assoc.dul.socket.socket
        self._socket.settimeout(_ANSWER_SECONDS)

    def heard(self, event: Any) -> None:
        """Note that the PACS aborts; a connection that ends without a word is something else."""
        self.was_aborted |= isinstance(event.pdu, A_ABORT_RQ)

    def cut(self) -> None:
        """Close the connection."""
        if self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()


def _offers_commitment(association: Association) -> bool:
    return any(one.abstract_syntax == COMMITMENT and one.as_scu for one in association.accepted_contexts)


def _why_not(association: Association, peer: Peer, was_opened: bool) -> str:
    if not association.is_rejected:
        return "it does not open an association" if was_opened else _trouble_with_tls(peer) or _SILENT
    answer = association.acceptor.primitive
    reason = answer.reason_str if answer else "No reason given"
    return f"it rejects us ({reason}): enter {peer.our_title} there"


def _trouble_with_tls(peer: Peer) -> str | None:
    """Return why there is no TLS with a PACS; pynetdicom does not say."""
    if peer.tls is None:
        return None
    try:
        with (
            socket.create_connection((peer.host, peer.port), _CONNECT_SECONDS) as line,
            peer.tls.wrap_socket(line, server_hostname=peer.host),
        ):
            return None
    except ssl.SSLCertVerificationError:
        return "its certificate is not trusted, or is for another name"
    except ssl.SSLError:
        return "it does not agree on TLS: is this its port with TLS?"
    except (OSError, ValueError):
        return None
