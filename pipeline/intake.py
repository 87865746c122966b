"""Handle an event: `ingest` sees to verdicts, `record` to the worklist, `dead_letter` to jobs that failed."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pipeline.errors import HostError, HostNotReady, IngestFailed, StoreError, place_of
from pipeline.events import Change, Event, Ignored, in_inbox, in_outbox, parse
from pipeline.judge import give_up, read_verdict
from pipeline.names import has_place, key_hash, printable, verdict_key
from pipeline.ports import FullStore, Host, Index, Queue, Store
from pipeline.records import Job, Outcome, Row
from pipeline.verdict import ReasonCode, Release, Verdict
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
    changes = [record for record in records if isinstance(record, Change)]
    outcomes = {}
    for change in changes:
        if change.removed:
            try:
                if mark_source(change.key, ports.store, ports.index):
                    outcomes[change.key] = Outcome(change.key, "gone")
            except StoreError as error:
                outcomes[change.key] = Outcome(change.key, "failed", str(error))
    asked = {change.key: change.since or ports.now() for change in reversed(changes)}
    jobs = [Job(key) for key in dict.fromkeys(change.key for change in changes) if key not in outcomes]
    for outcome in _judge(jobs, asked, ports):
        outcomes[outcome.key] = outcome
        log.info("%s: %s", key_hash(outcome.key, ports.log_key), outcome.result)
        if outcome.result in ("classified", "rejected"):
            ports.count(outcome.result.capitalize(), 1)
    again = [key for key, outcome in outcomes.items() if outcome.result in ("failed", "waiting")]
    _note_waiting(again, ports.now(), ports, at_work=False)
    return _report(records, outcomes, ignored)


def record(event: Event, ports: Ports) -> Report:
    """Bring the worklist up to date with every verdict in the event, each key by itself."""
    records = in_outbox(parse(event))
    ignored = _ignored(records)
    changes = [record for record in records if isinstance(record, Change)]
    outcomes = {key: _recorded(key, ports) for key in dict.fromkeys(change.key for change in changes)}
    return _report(records, outcomes, ignored)


def _recorded(key: str, ports: Ports) -> Outcome:
    try:
        record_verdict(key, ports.store, ports.index)
    except Exception as error:  # noqa: BLE001  no error may keep the others from their rows
        why = str(error) if isinstance(error, StoreError) else place_of(error)
        log.error("%s: its row could not be written: %s", key_hash(key, ports.log_key), why)
        return Outcome(key, "failed", why)
    return Outcome(key, "current")


def _report(records: list[Change | Ignored], outcomes: dict[str, Outcome], ignored: list[Ignored]) -> Report:
    changes = [record for record in records if isinstance(record, Change)]
    failed = {change.message_id for change in changes if outcomes[change.key].result == "failed"}
    from_sqs = bool(records) and all(record.message_id for record in records)
    return Report(list(outcomes.values()), ignored, from_sqs, sorted(id_ for id_ in failed if id_))


def dead_letter(event: Event, ports: Ports) -> list[Outcome]:
    """Write a `failed` verdict for each inbox key of the event that has none, after the last delivery.

    Raises IngestFailed when that verdict could not be written for some keys: the event must come again.
    """
    keys = dict.fromkeys(record.key for record in in_inbox(parse(event)) if isinstance(record, Change))
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


def mark_source(key: str, store: Store, index: Index) -> bool:
    """Mark in the worklist whether an inbox object exists; return True when it is gone.

    Checks again after writing, for the same reason as `record_verdict`.
    """
    gone = store.head(key) is None
    while True:
        index.mark(printable(key), "deleted" if gone else "present")
        again = store.head(key) is None
        if again == gone:
            return gone
        gone = again


def row_of(verdict: Verdict, verdict_key: str, verdict_etag: str | None) -> Row:
    """Build the worklist row of a verdict and its place."""
    finding, reason = verdict.finding, verdict.reason
    return Row(
        key=verdict.source.key,
        status=verdict.status,
        label=finding.label if finding else None,
        probability=finding.probability if finding else None,
        normal_below=finding.thresholds.normal_below if finding else None,
        pneumonia_above=finding.thresholds.pneumonia_above if finding else None,
        reason=reason.code if reason else None,
        message=shortened(reason.message) if reason else None,
        warnings=tuple(verdict.warnings),
        etag=verdict.source.etag,
        verdict_key=verdict_key,
        verdict_etag=verdict_etag,
        preview_key=verdict.preview_key,
        started_at=verdict.started_at,
        finished_at=verdict.finished_at,
    )


def _judge(jobs: list[Job], asked: dict[str, datetime], ports: Ports) -> Iterator[Outcome]:
    """Run the jobs on the host, and show in the worklist that they are at work.

    Where no host is ready, the queue brings the unanswered jobs again; without a queue they have failed.
    """
    if not jobs:
        return
    since = ports.now()
    _note_waiting([job.key for job in jobs], since, ports, at_work=True)
    unanswered = dict.fromkeys(job.key for job in jobs)
    try:
        for outcome in ports.host.run(jobs):
            unanswered.pop(outcome.key, None)
            yield _settled(outcome, since, ports)
        detail = "the host gave no answer"
    except HostNotReady as error:
        detail = str(error)
        if ports.queue:
            yield from _postpone(list(unanswered), asked, error, ports.queue, ports)
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


def _postpone(
    keys: list[str], asked: dict[str, datetime], error: HostNotReady, queue: Queue, ports: Ports
) -> Iterator[Outcome]:
    """Queue these keys again, except those that have waited too long: these get a `failed` verdict."""
    if not keys:
        return
    log.log(logging.ERROR if error.is_fault else logging.INFO, "no host: %s", error)
    ports.count("HostFault", float(error.is_fault))
    now = ports.now()
    ports.count("OldestWaitingSeconds", max((now - asked[key]).total_seconds() for key in keys))
    for key in keys:
        try:
            if now - asked[key] >= PATIENCE:
                yield _give_up(key, "host_unavailable", _NO_HOST, ports)
            else:
                queue.send([key], asked[key], error.retry_after)
                yield Outcome(key, "waiting", str(error))
        except StoreError as failure:
            yield Outcome(key, "failed", str(failure))


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
        mark_source(outcome.key, ports.store, ports.index)
    if outcome.result in ("current", "given_up"):  # its event may be lost, or was handled before this job
        record_verdict(verdict_key(outcome.key), ports.store, ports.index)
    if outcome.result in ("current", "given_up", "gone"):
        ports.index.settle(key, since)


def _ignored(records: Iterable[Change | Ignored]) -> list[Ignored]:
    ignored = [record for record in records if isinstance(record, Ignored)]
    for record in ignored:
        log.info("ignored: %s", record.reason)
    return ignored
