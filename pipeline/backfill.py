"""An archive judged at once: the Judge of every day, fed with a listing instead of events.

The outbox is not listed: a listing has the names of verdicts, and not of which bytes they are. The Judge asks
for each verdict, one request an image, and where that is current and the source's listing has its ETag (a
bucket's does), for nothing else. So memory is bounded whatever the archive holds, and to go on after a break
is to begin again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event

from pipeline.errors import StoreError
from pipeline.judge import Judge, give_up
from pipeline.records import Job, JobResult, Outcome
from pipeline.running.parallel import unordered
from pipeline.verdict import Label, ReasonCode, Verdict, Warning, doubt_of

PAUSES = (0.5, 2.0)  # seconds before an image is tried the second and the third time
HISTOGRAM_BINS = 10  # bins of the histogram of P
_AHEAD = 4  # times the threads: images that are under way
_LOST_IN_A_ROW = 100  # images without any verdict before the store is taken to be away
_GIVE_UP = "It could not be judged because of an internal error. See the log, and run the backfill again."


@dataclass(frozen=True)
class Done:
    """What became of an image, in a few bytes: a worker far away sends it home."""

    key: str
    result: JobResult
    detail: str = ""
    label: Label | None = None
    reason: ReasonCode | None = None
    doubt: Warning | None = None  # why its probability means nothing
    probability: float | None = None

    @classmethod
    def of(cls, outcome: Outcome, verdict: Verdict | None) -> "Done":
        """Of an outcome, and the verdict that stands now."""
        finding, reason = (verdict.finding, verdict.reason) if verdict else (None, None)
        return cls(
            outcome.key,
            outcome.result,
            outcome.detail,
            finding.label if finding else None,
            reason.code if reason else None,
            doubt_of(verdict.warnings) if verdict else None,
            finding.probability if finding else None,
        )

    @property
    def is_bad(self) -> bool:
        """Whether it has no verdict, or one that says `failed`: the same command tries it again."""
        return self.result in ("failed", "given_up")


class Backfill:
    """Judges what a listing names, side by side."""

    def __init__(self, judge: Judge, threads: int, pauses: tuple[float, ...] = PAUSES) -> None:
        self._judge, self._threads, self._pauses = judge, threads, pauses
        self._stopping = Event()

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """One answer for each job, as they finish; no image ends it.

        What is at work when nobody asks on is broken off, as if it had not been begun.
        """
        with ThreadPoolExecutor(self._threads, thread_name_prefix="cxr-backfill") as pool:
            try:
                yield from unordered(pool, self._settle, jobs, _AHEAD * self._threads)
            except BaseException:
                self._stopping.set()
                self.close()
                raise

    def close(self) -> None:
        """End the engine."""
        self._judge.engine.close()

    def _settle(self, job: Job) -> Done:
        for pause in (*self._pauses, None):
            outcome, verdict = self._judge.look(job)
            if outcome.result != "failed":
                return Done.of(outcome, verdict)
            if self._stopping.wait(pause or 0):
                return Done.of(outcome, None)
        with suppress(StoreError):
            given = give_up(self._judge.store, self._judge.release, job, "internal", _GIVE_UP)
            if given.result != "current":  # that of an earlier release or network stands
                outcome = replace(given, detail=outcome.detail)
        return Done.of(outcome, None)


class Tally:
    """What became of all of them."""

    def __init__(self) -> None:
        self.results: Counter[JobResult] = Counter()
        self.labels: Counter[Label] = Counter()
        self.reasons: Counter[ReasonCode] = Counter()
        # Images without a doubt, by P(pneumonia), in equal steps from 0 to 1.
        self.histogram = [0] * HISTOGRAM_BINS
        self._lost = 0  # in a row

    def add(self, done: Done) -> None:
        """Count one; StoreError when so many in a row were lost that the store must be away."""
        self.results[done.result] += 1
        if done.label:
            self.labels[done.label] += 1
        if done.reason:
            self.reasons[done.reason] += 1
        if done.probability is not None and not done.doubt:
            self.histogram[min(int(done.probability * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)] += 1
        self._lost = self._lost + 1 if done.result == "failed" else 0
        if self._lost >= _LOST_IN_A_ROW:
            raise StoreError(
                f"{self._lost} images in a row got no verdict ({done.detail}): mend that, then run the same"
                " command again; it goes on where it was"
            )

    @property
    def total(self) -> int:
        """How many images were looked at."""
        return self.results.total()

    @property
    def judged(self) -> int:
        """How many were judged now."""
        return self.results["classified"] + self.results["rejected"]

    @property
    def bad(self) -> int:
        """How many are to be tried again."""
        return self.results["failed"] + self.results["given_up"]
