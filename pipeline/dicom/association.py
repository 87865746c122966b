"""Serve one association: agree on classes and syntaxes, then answer C-ECHO and C-STORE until it is released.

pynetdicom is not used here, because it reads a message of any announced length into memory, has no deadline
for a slow one, and takes the next connection only after the TLS handshake of the last. Here one thread reads
one message at a time, of limited length, and each wait has a deadline.
"""

import logging
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pipeline.dicom import pdu
from pipeline.dicom.arrivals import Arrival, Arrivals, Reply
from pipeline.dicom.commitment import COMMITMENT, CommitmentReports, ReportArrival
from pipeline.dicom.pdu import Command, ProtocolError, Request
from pipeline.errors import CxrError

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 10.0  # for the request that opens the association
_CLOSE_SECONDS, _CLOSE_BYTES = 1.0, 1 << 20  # to wait for the sender to close after our last message
_SEND_SECONDS = 20.0
_SLOPPY_BYTES = 1 << 10  # some senders count their messages wrongly
_MOST_COMMAND = 1 << 14
# Acknowledge at once: many senders wait for that before they send the next part. The system forgets it.
_QUICK = getattr(socket, "TCP_QUICKACK", None)
_VERIFICATION = "1.2.840.10008.1.1"
_REFUSED, _TRANSIENT = 1, 2  # results of a rejection
_NO_CALLING, _NO_CALLED, _BUSY = (_REFUSED, 1, 3), (_REFUSED, 1, 7), (_TRANSIENT, 3, 2)
_SUCCESS, _UNKNOWN_COMMAND, _WRONG_CLASS, _WRONG_INSTANCE = 0x0000, 0x0211, 0x0122, 0x0117


class EndedError(CxrError):
    """Report why an association ends before it is released; `farewell` is the last message to the sender."""

    def __init__(self, why: str, farewell: bytes = b"") -> None:
        super().__init__(why)
        self.farewell = farewell


class LostError(EndedError):
    """Report that the sender closed the connection."""


@dataclass(frozen=True)
class Terms:
    """Hold what is agreed to: AE titles (none: any calling title), limits, and the objects that we read."""

    title: str
    calling: frozenset[str]
    classes: frozenset[str]
    syntaxes: tuple[str, ...]  # the best first
    idle_seconds: float  # for one message
    total_seconds: float  # for the association


class Wire:
    """Read one PDU at a time from a socket, each within a deadline; the buffer is used again for the next."""

    def __init__(self, connection: socket.socket, ends: float) -> None:
        self._socket, self._ends = connection, ends
        with suppress(OSError):  # the sender may be gone already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(pdu.MOST_BYTES + _SLOPPY_BYTES))

    def read(self, seconds: float) -> tuple[int, memoryview]:
        """Return the kind and the body of the next PDU, which is valid until the next call."""
        deadline = time.monotonic() + seconds
        kind, length = struct.unpack(">BxL", self._exactly(6, seconds, deadline))
        if length > len(self._buffer):
            why = f"a message of {length} bytes was announced, and at most {pdu.MOST_BYTES} were agreed"
            raise EndedError(why, pdu.abortion(6))
        return kind, self._exactly(length, seconds, deadline)

    def send(self, data: bytes) -> None:
        """Send all of a message."""
        try:
            self._socket.settimeout(_SEND_SECONDS)
            self._socket.sendall(data)
        except OSError as error:
            raise LostError("the connection broke off") from error

    def close(self, farewell: bytes = b"") -> None:
        """Send a last message, and give the sender a moment to read it and to close."""
        with suppress(OSError):
            if farewell:
                self._socket.settimeout(_CLOSE_SECONDS)
                self._socket.sendall(farewell)
                self._socket.shutdown(socket.SHUT_WR)
                until, left = time.monotonic() + _CLOSE_SECONDS, _CLOSE_BYTES
                while left > 0 and time.monotonic() < until:
                    left -= self._socket.recv_into(self._buffer) or left
        self._socket.close()

    def _exactly(self, size: int, seconds: float, deadline: float) -> memoryview:
        got = 0
        while got < size:
            now = time.monotonic()
            if now >= self._ends:
                raise EndedError("the association lasted too long", pdu.abortion())
            try:
                self._socket.settimeout(max(min(deadline, self._ends) - now, 0.001))
                read = self._socket.recv_into(self._buffer[got:size])
                if _QUICK is not None:
                    self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK, 1)
            except TimeoutError as error:
                if time.monotonic() >= self._ends:
                    continue
                raise EndedError(f"no whole message came for {seconds:g} s", pdu.abortion()) from error
            except OSError as error:
                raise LostError("the connection broke off") from error
            if not read:
                raise LostError("the connection was closed" if not got else "the connection broke off")
            got += read
        return self._buffer[:size]


class Association:
    """Serve one association on a connection; `tell` takes what people should know about it, once each."""

    def __init__(
        self,
        terms: Terms,
        arrivals: Arrivals,
        reports: CommitmentReports | None,
        wire: Wire,
        tell: Callable[[str], None],
    ) -> None:
        self._terms, self._arrivals, self._wire, self._tell = terms, arrivals, wire, tell
        self._reports, self._provided = reports, frozenset((COMMITMENT,) if reports else ())
        self._syntaxes: dict[int, str] = {}  # of each context that was agreed
        self._classes: dict[int, str] = {}
        self._most = 0  # bytes of a PDU that the sender accepts
        self._words = bytearray()  # of a command whose end is to come
        self._command: Command | None = None  # whose data set is to come
        self._arrival: Arrival | ReportArrival | None = None  # of the object that the data set is written to
        self._context: int | None = None  # of the message that is not complete
        self.stored = 0

    def serve(self, is_busy: bool) -> None:
        """Serve until the association is released; raise EndedError when it ends in another way."""
        try:
            kind, body = self._wire.read(min(_REQUEST_SECONDS, self._terms.idle_seconds))
            if kind != pdu.ASSOCIATE_RQ:
                raise EndedError("it did not begin with a request", pdu.abortion(2))
            self._open(Request.read(body), is_busy)
            while True:
                kind, body = self._wire.read(self._terms.idle_seconds)
                if kind == pdu.RELEASE_RQ:
                    self._wire.close(pdu.RELEASED)
                    return
                if kind == pdu.ABORT:
                    raise LostError("the sender aborted the association")
                if kind != pdu.P_DATA:
                    raise EndedError("an unexpected message came", pdu.abortion(2))
                for context, is_command, is_last, data in pdu.pieces(body):
                    self._take(context, is_command, is_last, data)
        except ProtocolError as error:
            raise EndedError(f"the sender breaks the rules: {error}", pdu.abortion(6)) from error
        finally:
            if self._arrival:
                self._arrival.drop()

    @property
    def is_at_rest(self) -> bool:
        """Return whether no message is incomplete."""
        return self._context is None

    def _open(self, request: Request, is_busy: bool) -> None:
        terms = self._terms
        if request.called != terms.title:
            raise EndedError(
                f"it calls another AE title than ours: enter {terms.title} in the sender as ours",
                pdu.rejection(*_NO_CALLED),
            )
        if terms.calling and request.calling not in terms.calling:
            raise EndedError("its AE title is not in calling_ae_titles", pdu.rejection(*_NO_CALLING))
        if is_busy:
            raise EndedError("there are as many associations as allowed", pdu.rejection(*_BUSY))
        served = terms.classes | self._provided | {_VERIFICATION}
        answer, self._syntaxes = pdu.agreed(request, served, terms.syntaxes, self._provided)
        self._classes = {context.number: context.sop_class for context in request.contexts}
        self._most = request.most_bytes
        if refused := _refused(request, terms, self._provided):
            self._tell(refused)
        self._wire.send(answer)

    def _take(self, context: int, is_command: bool, is_last: bool, data: memoryview) -> None:
        """Take a fragment of a command, or of the data set that follows it."""
        if context not in self._syntaxes or self._context not in (None, context):
            raise ProtocolError("a fragment belongs to no agreed context")
        self._context = context
        if is_command:
            if self._command or len(self._words) + len(data) > _MOST_COMMAND:
                raise ProtocolError("a command is too long")
            self._words += data
            if is_last:
                command, self._words = Command.read(bytes(self._words)), bytearray()
                self._begin(context, command)
            return
        if self._command is None:
            raise ProtocolError("data came without a command")
        if self._arrival:
            self._arrival.write(data)
        if is_last:
            self._finish(context, self._command)

    def _begin(self, context: int, command: Command) -> None:
        if command.has_data:
            self._command = command
            if self._status(context, command) is None:
                names, syntax = (command.sop_class, command.instance), self._syntaxes[context]
                if command.field == pdu.EVENT and self._reports:
                    self._arrival = self._reports.begin(command.event, syntax)
                else:
                    self._arrival = self._arrivals.begin(*names, syntax)
            return
        self._context = None
        if command.field == pdu.CANCEL:
            return  # it has no answer
        status = self._status(context, command) or Reply(0xC000, "there is no data set")
        self._answer(context, command, status)

    def _finish(self, context: int, command: Command) -> None:
        arrival, self._arrival, self._command = self._arrival, None, None
        status = arrival.finish() if arrival else self._status(context, command)
        self._context = None
        assert status is not None  # without an arrival, the command was refused
        self.stored += isinstance(arrival, Arrival) and status.code == _SUCCESS
        self._answer(context, command, status)

    def _status(self, context: int, command: Command) -> Reply | None:
        """Return the answer to a command; None for an object to be received."""
        if command.field == pdu.ECHO and not command.has_data:
            return Reply(_SUCCESS)
        if command.field == pdu.EVENT and self._classes[context] in self._provided:
            return (
                None if command.sop_class == COMMITMENT else Reply(_WRONG_CLASS, "another class was agreed")
            )
        if command.field != pdu.STORE or self._classes[context] in self._provided:
            return Reply(_UNKNOWN_COMMAND, "only C-ECHO and C-STORE are served")
        if command.sop_class != self._classes[context] or command.sop_class == _VERIFICATION:
            return Reply(_WRONG_CLASS, "another class was agreed")
        if not command.names_an_object:
            return Reply(_WRONG_INSTANCE, "the SOP Instance UID is not valid")
        return None

    def _answer(self, context: int, command: Command, status: Reply) -> None:
        self._wire.send(pdu.command_pdus(context, command.answer(*status), self._most))


def _refused(request: Request, terms: Terms, provided: frozenset[str]) -> str | None:
    """Return the line that tells which classes and syntaxes were refused; None when there were none."""
    others = provided | {_VERIFICATION}
    images = [context for context in request.contexts if context.sop_class not in others]
    classes = [context.sop_class for context in images if context.sop_class not in terms.classes]
    usable = {
        context.sop_class for context in images if any(one in terms.syntaxes for one in context.syntaxes)
    }
    syntaxes = [
        one
        for context in images
        if context.sop_class in terms.classes and context.sop_class not in usable
        for one in context.syntaxes
    ]
    found = (("class", classes), ("transfer syntax", syntaxes))
    parts = [f"{kind} {_listed(names)}" for kind, names in found if names]
    return f"refused, as no radiograph that is read here: {'; '.join(parts)}" if parts else None


def _listed(names: list[str]) -> str:
    """Return the first of some UIDs and the number of the others; only the standard's own are shown."""
    names = list(dict.fromkeys(names))
    is_public = names[0].startswith("1.2.840.10008.") and names[0].replace(".", "").isdigit()
    first = names[0][:64] if is_public else "(private)"
    return f"{first} and {len(names) - 1} others" if len(names) > 1 else first
