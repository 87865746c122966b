"""Define what a destination is to the queue: it takes a verdict, or says why not."""

from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import CxrError
from pipeline.verdict import Verdict


class TryAgain(CxrError):
    """Report that a delivery failed and may succeed later; the sentence tells a person why, without names."""


class DestinationDown(TryAgain):
    """Report that the destination takes nothing at present: its other deliveries wait, too."""


class Refused(CxrError):
    """Report that a delivery failed and will fail again, whatever the number of tries."""


class NothingToSend(CxrError):
    """Report that there is nothing to send of this verdict."""


@dataclass(frozen=True)
class Delivery:
    """Hold a verdict on its way to a destination."""

    key: str
    verdict_etag: str
    verdict: Verdict


@dataclass(frozen=True)
class Awaiting:
    """Report that the destination has a delivery, and will confirm this transaction later."""

    transaction: str


class Destination(Protocol):
    """Take deliveries. The same one may come again: a crash may lie between sending and noting it."""

    name: str

    def deliver(self, delivery: Delivery) -> Awaiting | None:
        """Deliver, within a deadline of its own; return None when it is done.

        Raises TryAgain, DestinationDown, Refused and NothingToSend.
        """
