"""Judge an object: from a hint that a key changed to the one right verdict beside it.

Correctness rests on the order of the four steps (principle 1 of docs/design.md): (a) read the verdict, (b)
read the image, (c) judge, (d) write on condition that the verdict is still as in (a). Whatever happens
between workers, replacements, duplicates and late events, a verdict of old bytes never stands for new ones.
Reading (b) before (a) would break it: another worker could judge newer bytes in between, and our older
verdict would replace it unnoticed.
"""

import hashlib
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.errors import (
    ConditionFailed,
    CxrError,
    EngineFailed,
    HostError,
    InputRejected,
    KeyNotUsable,
    ObjectTooLarge,
    ObjectUnreadable,
    StoreError,
    place_of,
)
from pipeline.names import name_problem, preview_key, printable, verdict_key
from pipeline.ports import InferenceEngine, Store
from pipeline.records import ImageFacts, Job, ObjectInfo, Outcome
from pipeline.verdict import Reason, ReasonCode, Release, Source, Status, TimingMs, Verdict, Warning

log = logging.getLogger(__name__)

_ATTEMPTS = 20  # lost races in a row before the job is given back
_VERDICT_LIMIT = 1 << 20  # bytes; ours have about 4,000


@dataclass(frozen=True)
class SeenVerdict:
    """Hold what step (a) found in the outbox; an object that is not a verdict has only an ETag."""

    verdict: Verdict | None = None
    etag: str | None = None


class Judge:
    """Judge the objects of one store with one engine, as one release.

    With `upgrades`, verdicts of the same release by another network are replaced.
    """

    def __init__(
        self, store: Store, engine: InferenceEngine, release: Release, max_bytes: int, upgrades: bool = False
    ) -> None:
        self.store, self.engine, self.release, self.max_bytes = store, engine, release, max_bytes
        self._network = engine.model.sha256 if upgrades else None

    def judge(self, job: Job) -> Outcome:
        """Bring the object's verdict up to date; never raises because of one image."""
        return self.look(job)[0]

    def look(self, job: Job) -> tuple[Outcome, Verdict | None]:
        """Do the same as `judge`; return also the verdict that stands now, if it is current."""
        try:
            for _ in range(_ATTEMPTS):
                try:
                    return self._attempt(job)
                except ConditionFailed:
                    continue  # somebody else wrote a verdict: look again
            return Outcome(job.key, "failed", "lost the race for the verdict too often"), None
        except Exception as error:  # noqa: BLE001  one image must not end the worker
            log.warning("a job failed: %s", place_of(error))
            # Messages of other libraries may quote the file.
            detail = str(error) if isinstance(error, CxrError) else place_of(error)
            return Outcome(job.key, "failed", detail, _passes(error)), None

    def _attempt(self, job: Job) -> tuple[Outcome, Verdict | None]:
        key, started = job.key, datetime.now(UTC)
        seen = read_verdict(self.store, verdict_key(key))  # (a)
        if seen.verdict and self._is_current(seen, job.etag or self._etag(key)):
            return Outcome(key, "current"), seen.verdict  # without reading the image
        clock = time.perf_counter()
        found = self._read(key)  # (b)
        if found is None:
            return Outcome(key, "gone"), None
        info, data = found
        if self._is_current(seen, info.etag):
            return Outcome(key, "current"), seen.verdict
        verdict = self._verdict(info, data, started, milliseconds_since(clock)).replacing(seen.verdict)  # (c)
        if verdict.reason and verdict.status == "failed":
            # It is worth another try; the verdict is written in case this was the last. It holds the reason
            # of this failure, which is no longer known where the job is given up.
            log.warning("an image was not judged: %s", verdict.reason.message)
            if seen.verdict is None or seen.verdict.source.etag != info.etag:
                self.store.put(verdict_key(key), verdict.to_json(), seen.etag)
            return Outcome(key, "failed", verdict.reason.message), None
        self.store.put(verdict_key(key), verdict.to_json(), seen.etag)  # (d)
        return Outcome(key, "classified" if verdict.status == "classified" else "rejected"), verdict

    def _etag(self, key: str) -> str | None:
        info = self.store.head(key)
        return info.etag if info else None

    def _is_current(self, seen: SeenVerdict, etag: str | None) -> bool:
        if seen.verdict is None or etag is None:
            return False
        return seen.verdict.is_current(etag, self.release.number, self._network)

    def _read(self, key: str) -> tuple[ObjectInfo, bytes | InputRejected] | None:
        try:
            return self.store.get(key, self.max_bytes)
        except ObjectTooLarge as error:
            return error.info, too_large(self.max_bytes)
        except ObjectUnreadable as error:
            message = "The file cannot be read. Allow this program to read it, or drop a copy."
            return error.info, InputRejected("unreadable", message)

    def _verdict(
        self, info: ObjectInfo, data: bytes | InputRejected, started: datetime, fetch: float
    ) -> Verdict:
        problem = name_problem(info.key)
        if problem:
            data = InputRejected("name_not_usable", f"{problem} Rename the file and drop it again.")
        source = _source(self.store.bucket, info)
        verdict, preview = examine(data, source, self.engine, self.release, started)
        timing = verdict.timing_ms.model_copy(update={"fetch": fetch})
        changes: dict[str, object] = {"timing_ms": timing}
        if preview:
            clock = time.perf_counter()
            changes["preview_key"] = self._write_preview(info, preview)
            changes["timing_ms"] = timing.model_copy(update={"write": milliseconds_since(clock)})
        return verdict.model_copy(update={**changes, "finished_at": datetime.now(UTC)})

    def _write_preview(self, info: ObjectInfo, preview: bytes) -> str:
        """Write the preview; one that exists shows the same image, as its name holds the source's ETag."""
        key = preview_key(info.key, info.etag)
        try:
            self.store.put(key, preview, None)
        except ConditionFailed:
            log.debug("the preview exists already")
        return key


def examine(
    data: bytes | InputRejected, source: Source, engine: InferenceEngine, release: Release, started: datetime
) -> tuple[Verdict, bytes | None]:
    """Judge the bytes of one file; return the verdict, and the preview of a classified image. Step (c).

    The verdict says `failed` where the engine did not finish the image.
    """
    status: Status = "rejected"
    facts: ImageFacts | None = None
    reason = finding = preview = None
    warnings: list[Warning] = []
    timing = TimingMs()
    if isinstance(data, bytes):
        source = source.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    try:
        if isinstance(data, InputRejected):
            raise data
        seen = engine.examine(data)
        facts, status = seen.facts, "classified"
        finding, preview, warnings = seen.finding, seen.preview, list(seen.warnings)
        timing = TimingMs(**seen.timing_ms)
    except InputRejected as error:
        facts, reason = error.facts, Reason(code=error.code, message=str(error))
    except EngineFailed as error:
        status, reason = "failed", Reason(code=error.code, message=str(error))
    if facts:
        source = source.model_copy(update=vars(facts))
    verdict = Verdict(
        status=status,
        source=source,
        finding=finding,
        warnings=warnings,
        reason=reason,
        model=engine.model,
        release=release,
        started_at=started,
        finished_at=datetime.now(UTC),
        timing_ms=timing,
    )
    return verdict, preview


def _passes(error: Exception) -> bool:
    """Return whether the error is a passing fault of store or host, not one of this name alone."""
    return isinstance(error, StoreError | HostError | OSError) and not isinstance(error, KeyNotUsable)


def too_large(limit: int) -> InputRejected:
    """Build the rejection of a file of more than `limit` bytes."""
    message = (
        f"The file is larger than {limit / 1e6:.0f} MB. Export the X-ray as a JPEG or PNG and drop it again."
    )
    return InputRejected("too_large", message)


def give_up(store: Store, release: Release, job: Job, code: ReasonCode, message: str) -> Outcome:
    """Write a `failed` verdict after the last try, in the same order of steps.

    An object that has a verdict of its bytes keeps it.
    """
    for _ in range(_ATTEMPTS):
        started = datetime.now(UTC)
        seen = read_verdict(store, verdict_key(job.key))
        info = store.head(job.key)
        if info is None:
            return Outcome(job.key, "gone")
        if seen.verdict and seen.verdict.source.etag == info.etag:
            return Outcome(job.key, "given_up" if seen.verdict.status == "failed" else "current")
        verdict = Verdict(
            status="failed",
            source=_source(store.bucket, info),
            reason=Reason(code=code, message=message),
            release=release,
            started_at=started,
            finished_at=datetime.now(UTC),
        ).replacing(seen.verdict)
        try:
            store.put(verdict_key(job.key), verdict.to_json(), seen.etag)
        except ConditionFailed:
            continue
        except KeyNotUsable as error:  # such as a folder in the verdict's place: no retry helps
            return Outcome(job.key, "given_up", str(error))
        return Outcome(job.key, "given_up", message)
    raise StoreError("lost the race for the verdict too often")


def read_verdict(store: Store, key: str) -> SeenVerdict:
    """Read the verdict at an outbox key; an object that is not one (damaged, foreign) has only an ETag."""
    try:
        found = store.get(key, _VERDICT_LIMIT)
        if found is None:
            return SeenVerdict()
        info, data = found
        return SeenVerdict(Verdict.from_json(data), info.etag)
    except (ObjectTooLarge, ObjectUnreadable) as error:
        return SeenVerdict(None, error.info.etag)
    except ValueError:
        return SeenVerdict(None, info.etag)


def milliseconds_since(clock: float) -> float:
    """Return the milliseconds since a reading of the performance counter."""
    return round((time.perf_counter() - clock) * 1000, 2)


def _source(bucket: str, info: ObjectInfo) -> Source:
    return Source(
        bucket=bucket, key=printable(info.key), etag=info.etag, version_id=info.version_id, size=info.size
    )
