"""Handle an event: `ingest` sees to verdicts, `record` to the worklist, `dead_letter` to jobs that failed."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pipeline.errors import (
    HostError,
    HostNotDone,
    HostNotReady,
    IngestFailed,
    NotQueued,
    StoreError,
    place_of,
)
from pipeline.events import Change, Event, Ignored, in_inbox, in_outbox, parse
from pipeline.judge import give_up, read_verdict
from pipeline.names import has_place, is_review, key_hash, printable, verdict_key
from pipeline.ports import Announcer, FullStore, Host, Index, Queue, Store
from pipeline.records import Job, JobResult, Outcome, Row
from pipeline.reviews.kept import record_review
from pipeline.verdict import ReasonCode, Release, Typicality, Verdict, doubt_of
from pipeline.worklist.rows import shortened

log = logging.getLogger(__name__)

_GIVE_UP = "The X-ray could not be judged because of an internal error. Drop the same file again to retry."
_NO_HOST = (
    "No inference host could be reached for two hours. When one is running again, drop the same file"
    " again, or run `cxr reconcile --failed`."
)
_IN_THE_WAY = (
    "The verdict cannot be written: a file or folder of its name is in the way in the outbox. Remove that,"
    " then drop the same file again."
)
PATIENCE = timedelta(hours=2)  # how long a job waits for a host
_MOST_TRIES = 5  # of one job, like the deliveries of a message (template.yaml)
_FARTHEST = 100.0  # times the limit of typicality: more is not told apart

CountFigure = Callable[[str, float], None]


@dataclass(frozen=True)
class Ports:
    """Hold everything that the handlers work with."""

    store: FullStore
    index: Index
    host: Host
    release: Release
    log_key: str  # secret of the hash that replaces keys in the logs
    queue: Queue | None = None  # without one, a job without a host fails
    # Record a figure for the alarms, such as `Failed` or `OldestWaitingSeconds`.
    count: CountFigure = lambda name, value: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    topic: Announcer | None = None  # who is told of each verdict that was written


@dataclass(frozen=True)
class Report:
    """Hold the results of an event."""

    outcomes: list[Outcome]
    ignored: list[Ignored]
    from_sqs: bool
    failed_messages: list[str]  # ids of the SQS messages to be delivered again


def ingest(event: Event, ports: Ports) -> Report:
    """Bring the verdict of every inbox key in the event up to date."""
    records = in_inbox(parse(event))
    ignored = _ignored(records)
    changes = [one for one in records if isinstance(one, Change)]
    outcomes = {}
    for change in changes:
        if change.removed:
            try:
                if mark_source(change.key, ports.store, ports.index, ports.now()):
                    outcomes[change.key] = Outcome(change.key, "gone")
            except StoreError as error:
                outcomes[change.key] = Outcome(change.key, "failed", str(error))
    for outcome in _judge(_jobs(change for change in changes if change.key not in outcomes), ports):
        outcomes[outcome.key] = outcome
        log.info("%s: %s", key_hash(outcome.key, ports.log_key), outcome.result)
        if outcome.result in ("classified", "rejected"):
            ports.count(outcome.result.capitalize(), 1)
    failed = [key for key, outcome in outcomes.items() if outcome.result == "failed"]
    _note_waiting(failed, ports.now(), ports, at_work=False)
    return _report(records, outcomes, ignored)


def record(event: Event, ports: Ports) -> Report:
    """Bring the worklist up to date with every verdict and review in the event, each key by itself.

    Verdicts are also announced, if anyone is to be told: at least once for each, whoever wrote its row.
    """
    records = in_outbox(parse(event))
    ignored = _ignored(records)
    changes = [one for one in records if isinstance(one, Change)]
    outcomes = {key: _recorded(key, ports) for key in dict.fromkeys(change.key for change in changes)}
    return _report(records, outcomes, ignored)


def _recorded(key: str, ports: Ports) -> Outcome:
    try:
        if is_review(key):
            record_review(key, ports.store, ports.index)
        else:
            row = record_verdict(key, ports.store, ports.index)
            if row and ports.topic:
                ports.topic.tell_of(key)
            if row and row.status == "classified":  # last: it is not to be counted twice
                _count_drift(row, ports)
    except Exception as error:  # noqa: BLE001  no error may keep the others from their rows
        why = str(error) if isinstance(error, StoreError) else place_of(error)
        log.error("%s: it could not be recorded: %s", key_hash(key, ports.log_key), why)
        return Outcome(key, "failed", why)
    return Outcome(key, "current")


def _count_drift(row: Row, ports: Ports) -> None:
    """Record figures that change when the X-rays do; an event that comes twice counts twice."""
    ports.count("NoCall", float(doubt_of(row.warnings) is not None))
    if row.typicality is not None:
        ports.count("Typicality", row.typicality)


def _report(records: list[Change | Ignored], outcomes: dict[str, Outcome], ignored: list[Ignored]) -> Report:
    changes = [one for one in records if isinstance(one, Change)]
    failed = {change.message_id for change in changes if outcomes[change.key].result == "failed"}
    from_sqs = bool(records) and all(one.message_id for one in records)
    return Report(list(outcomes.values()), ignored, from_sqs, sorted(id_ for id_ in failed if id_))


def dead_letter(event: Event, ports: Ports) -> list[Outcome]:
    """Write a `failed` verdict for each inbox key of the event that has none, after the last delivery.

    Raises IngestFailed when that verdict could not be written for some keys: the event must come again.
    """
    keys = dict.fromkeys(one.key for one in in_inbox(parse(event)) if isinstance(one, Change))
    outcomes, lost = [], []
    for key in keys:
        try:
            outcomes.append(_give_up(key, "internal", _GIVE_UP, ports))
        except StoreError as error:
            lost.append(Outcome(key, "failed", str(error)))
    if lost:
        raise IngestFailed(lost)
    return outcomes


def _give_up(key: str, code: ReasonCode, message: str, ports: Ports) -> Outcome:
    since = ports.now()
    outcome = give_up(ports.store, ports.release, Job(key), code, message)
    log.error("%s: given up, %s", key_hash(key, ports.log_key), outcome.result)
    if outcome.result == "given_up":
        ports.count("Failed", 1)
    _settle(outcome, since, ports)
    if outcome.result == "given_up":
        _show_in_the_way(key, since, ports)
    return outcome


def _show_in_the_way(key: str, since: datetime, ports: Ports) -> None:
    """Write the row of an object whose verdict has no place in the outbox.

    The row has no source ETag, so that `reconcile` tries the object again.
    """
    place = verdict_key(key)
    if ports.store.head(place) is None:
        row = Row(printable(key), "failed", reason="internal", message=shortened(_IN_THE_WAY))
        ports.index.record(replace(row, started_at=since, finished_at=ports.now()))
        if ports.store.head(place):  # another handler wrote it meanwhile
            record_verdict(place, ports.store, ports.index)


def record_verdict(key: str, store: Store, index: Index) -> Row | None:
    """Copy the verdict at an outbox key into the worklist; return its row, or None where there is no verdict.

    The verdict is read again after the row was written, and the row is rewritten if it changed. So when
    several handlers work on one key, the last to write has written the verdict that stands, whatever their
    order and their clocks. A copy of a verdict at another place than its own is ignored.
    """
    seen = read_verdict(store, key)
    while True:
        verdict = seen.verdict
        is_ours = verdict is not None and has_place(key, verdict.source.key)
        row = row_of(verdict, key, seen.etag) if verdict and is_ours else None
        if row:
            index.record(row)
        elif seen.etag is None:
            index.remove(key)
        again = store.head(key)
        if (again.etag if again else None) == seen.etag:
            return row
        seen = read_verdict(store, key)


def mark_source(key: str, store: Store, index: Index, since: datetime) -> bool:
    """Mark in the worklist whether an inbox object exists; return True when it is gone.

    Then a wait that was noted at `since` or before ends, too: perhaps nobody works on it any more. Checks
    again after writing, for the same reason as `record_verdict`.
    """
    gone = store.head(key) is None
    while True:
        index.mark(printable(key), "deleted" if gone else "present")
        if gone:
            index.settle(printable(key), since)
        again = store.head(key) is None
        if again == gone:
            return gone
        gone = again


def row_of(verdict: Verdict, verdict_key: str, verdict_etag: str | None) -> Row:
    """Build the worklist row of a verdict and its place."""
    finding, reason, source = verdict.finding, verdict.reason, verdict.source
    return Row(
        key=source.key,
        status=verdict.status,
        label=finding.label if finding else None,
        probability=finding.probability if finding else None,
        normal_below=finding.thresholds.normal_below if finding else None,
        pneumonia_above=finding.thresholds.pneumonia_above if finding else None,
        reason=reason.code if reason else None,
        message=shortened(reason.message) if reason else None,
        warnings=tuple(verdict.warnings),
        etag=source.etag,
        verdict_key=verdict_key,
        verdict_etag=verdict_etag,
        preview_key=verdict.preview_key,
        started_at=verdict.started_at,
        finished_at=verdict.finished_at,
        model=verdict.model.sha256 if verdict.model else None,
        typicality=_share_of_limit(finding.typicality) if finding and finding.typicality else None,
        aspect=round(source.width / source.height, 3) if source.width and source.height else None,
        brightness=source.brightness,
        contrast=source.contrast,
    )


def _share_of_limit(typicality: Typicality) -> float | None:
    limit = typicality.atypical_above
    return round(min(max(typicality.score / limit, 0), _FARTHEST), 4) if limit > 0 else None


def _jobs(changes: Iterable[Change]) -> list[Job]:
    """Return one job for each key, with the longest wait, the most tries and the last sending."""
    found = defaultdict[str, list[Change]](list)
    for change in changes:
        found[change.key].append(change)
    jobs = []
    for key, same in found.items():
        since = min((one.since for one in same if one.since), default=None)
        times = [one.queued_at for one in same if one.queued_at]
        queued_at = max(times) if len(times) == len(same) else None  # one that S3 sent is always needed
        jobs.append(Job(key, since=since, tries=max(one.tries for one in same), queued_at=queued_at))
    return jobs


def _judge(jobs: list[Job], ports: Ports) -> Iterator[Outcome]:
    """Run the jobs on the host, and show in the worklist that they are at work.

    Where no host is ready or has time, the queue brings the unanswered jobs again; without one they failed.
    A message that comes twice would be queued twice then, and its copies would double again and again: of
    several messages of a key, only the last is queued again, as far as this process knows them.
    """
    if not jobs:
        return
    since = ports.now()
    unanswered = {job.key: job for job in jobs}
    unseen = [job.key for job in jobs if job.since is None]  # the worklist does not show these as waiting
    is_begun = False
    try:
        outcomes = ports.host.run(jobs)  # asked first: to wait for a host is to change no row
        unseen, is_begun = list(unanswered), True
        _note_waiting(unseen, since, ports, at_work=True)
        for outcome in outcomes:
            unanswered.pop(outcome.key, None)
            yield _settled(outcome, since, ports)
        detail = "the host gave no answer"
    except HostNotReady as error:
        detail = str(error)
        if ports.queue:
            _note_waiting([key for key in unseen if key in unanswered], ports.now(), ports, at_work=False)
            # A job whose row this call has touched comes again in any case, to settle the row.
            twins = [] if is_begun else [job for job in jobs if ports.queue.has_later(job)]
            for twin in twins:
                yield Outcome(unanswered.pop(twin.key).key, "waiting", "a later message was queued")
            yield from _postpone(list(unanswered.values()), error, ports.queue, ports)
            return
    except HostError as error:
        detail = str(error)
    for key in unanswered:
        yield Outcome(key, "failed", detail)


def _note_waiting(keys: list[str], since: datetime, ports: Ports, at_work: bool) -> None:
    """Show in the worklist which keys wait or are at work; a worklist error does not hold up an X-ray."""
    if not keys:
        return
    try:
        ports.index.wait(list(map(printable, keys)), since, at_work)
    except StoreError as error:
        log.warning("the worklist does not show the waiting X-rays: %s", error)


def _postpone(jobs: list[Job], error: HostNotReady, queue: Queue, ports: Ports) -> Iterator[Outcome]:
    """Queue these jobs again, except those that had enough time or tries: they get a `failed` verdict."""
    if not jobs:
        return
    log.log(logging.ERROR if error.is_fault else logging.INFO, "no host: %s", error)
    ports.count("HostFault", float(error.is_fault))
    now = ports.now()
    later = [_after(job, error, now) for job in jobs]
    ports.count("OldestWaitingSeconds", max((now - since).total_seconds() for _, since in later))
    again: list[Job] = []
    for job, since in later:
        try:
            if job.tries >= _MOST_TRIES:
                yield _give_up(job.key, "internal", _GIVE_UP, ports)
            elif now - since >= PATIENCE:
                yield _give_up(job.key, "host_unavailable", _NO_HOST, ports)
            else:
                again.append(job)
        except StoreError as failure:
            yield Outcome(job.key, "failed", str(failure))
    yield from _queue_again(again, str(error), error.retry_after, queue)


def _after(job: Job, error: HostNotReady, now: datetime) -> tuple[Job, datetime]:
    """Return the job for its next delivery, and since when it waits for a host.

    While a host is at work, no job waits for one; and what the host did not answer counts as tried.
    """
    since = now if isinstance(error, HostNotDone) else job.since or now
    tried = isinstance(error, HostNotDone) and job.key in error.tried
    # Later than the message that it follows, also where another function's clock is ahead.
    queued_at = max(now, job.queued_at + timedelta(microseconds=1)) if job.queued_at else now
    return replace(job, since=since, tries=job.tries + tried, queued_at=queued_at), since


def _queue_again(jobs: list[Job], reason: str, delay: float, queue: Queue) -> Iterator[Outcome]:
    """Send the jobs to the queue; those that it did not take have failed, so that their messages stay."""
    if not jobs:
        return
    lost: dict[str, str] = {}
    try:
        queue.send(jobs, delay)
    except NotQueued as error:
        lost = dict.fromkeys((job.key for job in error.jobs), str(error))
    except StoreError as error:
        lost = dict.fromkeys((job.key for job in jobs), str(error))
    for job in jobs:
        result: JobResult = "failed" if job.key in lost else "waiting"
        yield Outcome(job.key, result, lost.get(job.key, reason))


def _settled(outcome: Outcome, since: datetime, ports: Ports) -> Outcome:
    """Return the outcome, or a failure where its row could not be written; that must not stop the others."""
    try:
        _settle(outcome, since, ports)
    except StoreError as error:
        return Outcome(outcome.key, "failed", str(error))
    return outcome


def _settle(outcome: Outcome, since: datetime, ports: Ports) -> None:
    """End the wait of a key where no outbox event will; a failed job keeps waiting for its next delivery."""
    key = printable(outcome.key)
    row = ports.index.get(key)
    if outcome.result == "gone" or (row and row.source == "deleted"):
        mark_source(outcome.key, ports.store, ports.index, since)
    if outcome.result in ("current", "given_up"):  # its event may be lost, or was handled before this job
        record_verdict(verdict_key(outcome.key), ports.store, ports.index)
    if outcome.result in ("current", "given_up", "gone"):
        ports.index.settle(key, since)


def _ignored(records: Iterable[Change | Ignored]) -> list[Ignored]:
    ignored = [one for one in records if isinstance(one, Ignored)]
    for one in ignored:
        log.info("ignored: %s", one.reason)
    return ignored
