"""Make the DICOM objects of a verdict: the entry to this folder. Its libraries are loaded on use."""

from collections.abc import Callable

from pipeline.errors import (
    CxrError,
    EngineFailed,
    HostError,
    NoResult,
    ObjectTooLarge,
    ObjectUnreadable,
    ResultFailed,
    ResultOutdated,
    place_of,
)
from pipeline.judge import read_verdict
from pipeline.names import preview_key, verdict_key
from pipeline.ports import Store
from pipeline.records import DicomObject
from pipeline.verdict import Verdict

_PREVIEW_LIMIT = 8 << 20  # bytes; a usual preview has about 100,000


class ResultMaker:
    """Make them from a store's X-rays, verdicts and previews; `pipeline.ports.Results`.

    `picture` draws the preview of an X-ray that has none in the outbox, as one with burned-in text.
    """

    def __init__(self, store: Store, max_bytes: int, picture: Callable[[bytes], bytes | None]) -> None:
        self._store, self._max_bytes, self._picture = store, max_bytes, picture

    def make(self, key: str, etag: str | None = None) -> list[DicomObject]:
        """Return the report, and the capture where there is a map; see `pipeline.ports.Results`."""
        seen = read_verdict(self._store, verdict_key(key))
        if etag is not None and seen.etag != etag:
            raise ResultOutdated("the verdict was replaced")
        if seen.verdict is None:
            has_one = "its verdict cannot be read" if seen.etag else "there is no verdict yet"
            raise NoResult(f"{has_one}: look at the worklist, or judge the X-ray with `cxr reconcile`")
        data = self._source(key, seen.verdict)
        try:
            return self._made(key, seen.verdict, data)
        except (CxrError, ImportError):  # StoreError, too, is ours
            raise
        except Exception as error:  # noqa: BLE001  a library's message may quote the patient's name
            raise ResultFailed(f"the DICOM result could not be made ({place_of(error)})") from None

    def _source(self, key: str, verdict: Verdict) -> bytes:
        """Return the bytes that the verdict is about."""
        try:
            found = self._store.get(key, self._max_bytes)
        except ObjectUnreadable as error:
            raise ResultFailed(f"the X-ray cannot be read: {error}") from error
        except ObjectTooLarge as error:
            raise NoResult(f"the X-ray cannot be read: {error}") from error
        if found is None:
            raise NoResult("the X-ray is no longer in the inbox: the patient and the study are only there")
        info, data = found
        if info.etag != verdict.source.etag:
            raise ResultOutdated("the X-ray was replaced after its verdict: wait for the new verdict")
        return data

    def _made(self, key: str, verdict: Verdict, data: bytes) -> list[DicomObject]:
        from model.results.belonging import belonging_of
        from model.results.objects import Names, encoded

        belonging = belonging_of(data)
        names = Names.of(verdict, belonging)
        from model.results.report import build_report

        report = encoded(build_report(verdict, belonging, names))
        made = [DicomObject("report", names.instance("report"), report)]
        if verdict.status == "classified" and (preview := self._preview(key, verdict, data)):
            from model.results.capture import build_capture

            capture = encoded(build_capture(verdict, belonging, names, preview))
            made.append(DicomObject("capture", names.instance("capture"), capture))
        return made

    def _preview(self, key: str, verdict: Verdict, data: bytes) -> bytes | None:
        found = self._store.get(preview_key(key, verdict.source.etag), _PREVIEW_LIMIT)
        if found:
            return found[1]
        try:
            return self._picture(data)
        except (EngineFailed, HostError) as error:
            raise ResultFailed(f"the X-ray could not be drawn: {error}") from error
        except CxrError as error:
            raise NoResult(f"the X-ray could not be drawn: {error}") from error
