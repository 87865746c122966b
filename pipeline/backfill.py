"""Judge a whole archive at once: the same Judge as in daily use, fed with a listing instead of events.

The outbox is not listed, because a listing names verdicts without saying which bytes they belong to. Instead
the Judge reads each verdict, one request per image. Where the verdict is current and the source's listing has
ETags (as a bucket's does), nothing else is read. So memory is bounded whatever the size of the archive, and
to resume after a break is to start again.
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
_AHEAD = 4  # images under way per thread
_LOST_IN_A_ROW = 100  # images without a verdict before the store counts as away
_GIVE_UP = "It could not be judged because of an internal error. See the log, and run the backfill again."


@dataclass(frozen=True)
class Done:
    """Summarise the result of one image in a few bytes, to be sent home by a remote worker."""

    key: str
    result: JobResult
    detail: str = ""
    label: Label | None = None
    reason: ReasonCode | None = None
    doubt: Warning | None = None  # why its probability is meaningless
    probability: float | None = None

    @classmethod
    def of(cls, outcome: Outcome, verdict: Verdict | None) -> "Done":
        """Build from an outcome and the verdict that stands now."""
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
        """Return whether the image has no verdict, or a `failed` one; the same command tries it again."""
        return self.result in ("failed", "given_up")


class Backfill:
    """Judge the images of a listing, several at a time."""

    def __init__(self, judge: Judge, threads: int, pauses: tuple[float, ...] = PAUSES) -> None:
        self._judge, self._threads, self._pauses = judge, threads, pauses
        self._stopping = Event()

    def run(self, jobs: Iterable[Job]) -> Iterator[Done]:
        """Yield one answer for each job, in the order in which they finish; no image ends the run.

        When the caller stops iterating, jobs at work are abandoned as if they had not begun.
        """
        with ThreadPoolExecutor(self._threads, thread_name_prefix="cxr-backfill") as pool:
            try:
                yield from unordered(pool, self._settle, jobs, _AHEAD * self._threads)
            except BaseException:
                self._stopping.set()
                self.close()
                raise

    def close(self) -> None:
        """Close the engine."""
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
            if given.result != "current":  # a verdict of an earlier release or network stands
                outcome = replace(given, detail=outcome.detail)
        return Done.of(outcome, None)


class Tally:
    """Count the results of a backfill."""

    def __init__(self) -> None:
        self.results: Counter[JobResult] = Counter()
        self.labels: Counter[Label] = Counter()
        self.reasons: Counter[ReasonCode] = Counter()
        # Images without a doubt, by P(pneumonia), in equal steps from 0 to 1.
        self.histogram = [0] * HISTOGRAM_BINS
        self._lost = 0  # in a row

    def add(self, done: Done) -> None:
        """Count one result; raise StoreError after so many lost in a row that the store must be away."""
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
                f"{self._lost} images in a row got no verdict ({done.detail}): fix that, then run the same"
                " command again; it continues where it stopped"
            )

    @property
    def total(self) -> int:
        """Return how many images were looked at."""
        return self.results.total()

    @property
    def judged(self) -> int:
        """Return how many images were judged in this run."""
        return self.results["classified"] + self.results["rejected"]

    @property
    def bad(self) -> int:
        """Return how many images have to be tried again."""
        return self.results["failed"] + self.results["given_up"]
