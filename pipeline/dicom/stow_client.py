"""Send results by DICOMweb (STOW-RS, PS3.18 10.5); by dicomweb-client."""

import io
import logging
import time
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from pipeline.dicom.outbound import objects_of
from pipeline.errors import place_of
from pipeline.outgoing.delivery import Delivery, DestinationDown, TryAgain
from pipeline.ports import Results
from pipeline.settings.tables import SendTo

for _library in ("dicomweb_client", "retrying", "urllib3"):  # their lines quote addresses and answers
    logging.getLogger(_library).setLevel(logging.CRITICAL)

_CONNECT_SECONDS, _ANSWER_SECONDS, _TOTAL_SECONDS = 10.0, 60.0, 300.0
_MOST_ANSWER = 1 << 20  # bytes
_JSON, _XML = "application/dicom+json", "application/dicom+xml"
_NO_ROOM, _IS_THERE, _REFUSED, _NOT_ALL = 0xA700, 0x0111, (401, 403), (400, 409)
_DOWN = (404, 408, 429)  # and from 500 on


class StowClient:
    """Send to a PACS by STOW-RS; a destination of the queue."""

    def __init__(self, table: SendTo, results: Results) -> None:
        self.name, self._results = table.name, results
        session = requests.Session()
        session.trust_env = False  # neither .netrc nor another authority's certificates
        session.max_redirects = 0  # a redirected POST would arrive as a GET
        session.verify = str(table.ca) if table.ca else True
        if table.certificate and table.key:
            session.cert = (str(table.certificate), str(table.key))
        if table.user is not None and table.password is not None:
            session.auth = HTTPBasicAuth(table.user.encode(), table.password.encode())
        session.headers["Accept"] = _JSON
        if table.token is not None:
            session.headers["Authorization"] = f"Bearer {table.token}"
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Bounded())
        self._client = DICOMwebClient(table.to.rstrip("/"), session)
        self._client.set_http_retry_params(retry=False)  # the queue tries again

    def deliver(self, delivery: Delivery) -> None:
        """Send the objects of a verdict; see `pipeline.outgoing.delivery.Destination`."""
        made = [dcmread(io.BytesIO(one.data)) for one in objects_of(self._results, delivery)]
        sent = {str(one.SOPInstanceUID) for one in made}
        try:
            _check(self._client.store_instances(made), sent)
        except TryAgain:
            raise
        except requests.HTTPError as error:
            _explain(error.response, sent)
        except requests.TooManyRedirects:
            raise DestinationDown("it redirects to another address: name that one") from None
        except requests.exceptions.SSLError:
            raise DestinationDown("its certificate is not trusted, or it does not accept ours") from None
        except requests.JSONDecodeError as error:
            raise TryAgain(f"its answer cannot be read ({place_of(error)})") from None
        except requests.ConnectionError:
            raise DestinationDown("it does not answer") from None
        except requests.RequestException:
            raise DestinationDown("the connection broke off, or it took too long") from None
        except Exception as error:  # noqa: BLE001  an answer that the library cannot read
            raise TryAgain(f"its answer cannot be read ({place_of(error)})") from None


class _Bounded(HTTPAdapter):
    """Send with deadlines, and read a short answer only."""

    def send(self, *arguments: Any, **options: Any) -> requests.Response:
        ends = time.monotonic() + _TOTAL_SECONDS
        options |= {"timeout": (_CONNECT_SECONDS, _ANSWER_SECONDS), "stream": True}
        answer = super().send(*arguments, **options)
        data = b""
        for part in answer.iter_content(1 << 14):
            data += part
            if len(data) > _MOST_ANSWER or time.monotonic() > ends:
                answer.close()
                raise requests.ReadTimeout("the answer is too long, or takes too long")
        answer._content = data
        answer.headers["Content-Type"] = _kind_of(data)
        return answer


def _kind_of(data: bytes) -> str:
    """Return what an answer is; its server may spell the name otherwise than the library knows it."""
    if data.lstrip().startswith(b"{"):
        return _JSON
    return _XML if b"<NativeDicomModel" in data[:1000] else "text/plain"  # which the library does not read


def _check(answer: Dataset, sent: set[str]) -> None:
    """Raise TryAgain unless the answer says that all that was sent is stored, now or before."""
    failed = [_why(item) for item in answer.get("FailedSOPSequence") or () if not _is_there(item, sent)]
    failed += map(_why, answer.get("OtherFailuresSequence") or ())
    if failed and failed[0] & 0xFF00 == _NO_ROOM:
        raise DestinationDown(f"it has no room (reason {failed[0]:04X})")
    if failed:
        raise TryAgain(f"it refused {len(failed)} of the objects (reason {failed[0]:04X})")
    named = [*(answer.get("ReferencedSOPSequence") or ()), *(answer.get("FailedSOPSequence") or ())]
    if not sent <= set(map(_uid, named)):
        raise TryAgain("it did not say that it stored the objects: is the address right?")


def _why(item: Dataset) -> int:
    return int(item.get("FailureReason") or 0)


def _uid(item: Dataset) -> str:
    return str(item.get("ReferencedSOPInstanceUID") or "").strip("\0 ")


def _is_there(item: Dataset, sent: set[str]) -> bool:
    """Return whether an object was only refused because it is stored already; our UIDs stay the same."""
    return _why(item) == _IS_THERE and _uid(item) in sent


def _explain(answer: requests.Response | None, sent: set[str]) -> None:
    """Raise TryAgain with what an answer that is no success means, unless all that was sent is there."""
    if answer is None:  # it never is: the error is raised for an answer
        raise TryAgain("its answer cannot be read")
    status = answer.status_code
    if status in _REFUSED:
        raise DestinationDown(f"it does not let us in (HTTP {status}): check user, password or token")
    if status in _DOWN or status >= 500:
        raise DestinationDown(f"it cannot take anything now (HTTP {status})")
    refused = TryAgain(f"it refused the objects (HTTP {status})")
    if status not in _NOT_ALL:
        raise refused
    try:
        said = Dataset.from_json(answer.json())
        has_reasons = bool(said.get("FailedSOPSequence") or said.get("OtherFailuresSequence"))
    except Exception:  # noqa: BLE001  the answer says nothing more
        raise refused from None
    if not has_reasons:
        raise refused
    _check(said, sent)
