"""The queue of results to send: nothing is lost, nothing is sent that was replaced, nobody is hammered."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.errors import IndexNotReady
from pipeline.forget import erase_xray
from pipeline.outgoing.delivery import Awaiting, DestinationDown, NothingToSend, Refused, TryAgain
from pipeline.outgoing.queue import OutgoingQueue
from pipeline.settings.tables import Rule
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.outgoing import Department, FakeDestination


class Crash(BaseException):
    """End the program, as a kill would."""


def crash() -> None:
    raise Crash


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    found = Department(tmp_path)
    yield found
    found.close()


def test_each_verdict_is_sent_once(department: Department) -> None:
    pacs = FakeDestination()
    lane = department.lane(pacs)
    sent = [("inbox/a", department.judged("a")), ("inbox/b", department.judged("b", b"N"))]
    assert department.work(lane) == 2
    assert sorted(pacs.got) == sent
    entry = department.entry("a")
    assert (entry.state, entry.done, entry.done_at) == ("done", sent[0][1], department.now)
    department.index.mark("inbox/a", "deleted")  # the row changes, its verdict does not
    assert department.work(lane) == 0


def test_verdicts_from_before_are_sent_on_request_only(department: Department) -> None:
    etag = department.judged("old")
    department.wait(hours=1)
    pacs = FakeDestination()
    lane = department.lane(pacs)
    assert department.work(lane) == 0
    assert department.outgoing(lane).send_again("inbox/old") == 1
    assert department.work(lane) == 1
    assert pacs.got == [("inbox/old", etag)]
    assert department.outgoing(lane).send_again("inbox/none") == 0


def test_the_rule_chooses(department: Department) -> None:
    pacs = FakeDestination()
    lane = department.lane(pacs, Rule(labels=("pneumonia",), warnings=("age_unknown",)))
    for name, data in (("a", b"P"), ("b", b"N age_unknown"), ("c", b"P age_unknown"), ("d", b"bad")):
        department.judged(name, data)
    department.work(lane)
    assert [key for key, _ in pacs.got] == ["inbox/c"]
    department.wait(hours=1)
    refusals = FakeDestination("refusals")
    rule = Rule(statuses=("rejected",))
    assert department.work(department.lane(refusals, rule)) == 0  # they are from before
    department.now = department.queue.place("PACS").since
    assert department.work(department.lane(FakeDestination("others"), rule)) == 1


@pytest.mark.parametrize("moment", ["put", "sent", "noted", "marked"])
def test_a_crash_at_any_point_loses_nothing(
    department: Department, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    pacs = FakeDestination()
    lane = department.lane(pacs)
    etag = department.judged("a")
    if moment == "put":
        with monkeypatch.context() as patch:
            patch.setattr(OutgoingQueue, "_want", lambda *_: crash())
            with pytest.raises(Crash):
                lane.follow()
    elif moment == "sent":
        pacs.answers = [crash, None]
    elif moment == "noted":
        monkeypatch.setattr(OutgoingQueue, "finish", lambda *_: crash())
    elif moment == "marked":
        monkeypatch.setattr(OutgoingQueue, "resume", lambda *_: crash())
    if moment != "put":
        with pytest.raises(Crash):
            department.work(lane)
    monkeypatch.undo()
    department.open_queue()
    department.wait(seconds=6)
    department.work(department.lane(pacs))
    again = moment in ("sent", "noted")
    assert pacs.got == [("inbox/a", etag)] * (2 if again else 1)
    assert department.entry("a").state == "done"


def test_a_verdict_that_was_replaced_meanwhile_is_not_sent(department: Department) -> None:
    pacs = FakeDestination()
    lane = department.lane(pacs)
    department.judged("a", b"P1")
    lane.follow()
    second = department.judged("a", b"P2")
    assert lane.deliver_next()  # the queue does not know of it yet
    assert pacs.got == []
    department.work(lane)
    assert pacs.got == [("inbox/a", second)]
    department.judged("a", b"P3")
    lane.follow()
    department.store.delete("outbox/a.json")
    department.index.remove("outbox/a.json")
    department.work(lane)
    assert pacs.got == [("inbox/a", second)]
    assert department.entry("a").state == "done"


def test_one_that_is_replaced_while_it_is_sent_is_followed_by_the_next(department: Department) -> None:
    pacs = FakeDestination()
    lane = department.lane(pacs)
    department.judged("a", b"P1")

    def replace() -> None:
        department.judged("a", b"P2")
        department.lane(pacs)

    pacs.answers = [replace, None]
    assert department.work(lane) == 2
    assert len(set(pacs.got)) == 2
    assert department.entry("a").done == pacs.got[-1][1]


def test_down_for_hours_and_back(department: Department, caplog: pytest.LogCaptureFixture) -> None:
    pacs, other = FakeDestination(answers=[DestinationDown("it does not answer")]), FakeDestination("other")
    lanes = department.lane(pacs), department.lane(other)
    for name in "abc":
        department.judged(name)
    department.work(*lanes)
    assert len(other.got) == 3  # the other one is not held up
    for _ in range(6 * 60):
        department.work(*lanes)
        department.wait(minutes=1)
    assert 20 < len(pacs.tries) < 36  # 5, 10, 20 ... 900 seconds
    assert department.queue.entries("inbox/a")[0].said == "it does not answer"
    assert department.queue.entries("inbox/a")[0].attempts == len(pacs.tries)
    assert department.outgoing(*lanes).problems() == []
    pacs.answers = [None]
    department.wait(minutes=15)
    assert department.work(*lanes) == 3
    assert sorted(key for key, _ in pacs.got) == ["inbox/a", "inbox/b", "inbox/c"]
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == [
        "PACS takes no results at present; they wait: it does not answer",
        "PACS takes results again",
    ]
    assert "inbox/" not in caplog.text


def test_dead_after_a_day_and_revived(department: Department, caplog: pytest.LogCaptureFixture) -> None:
    pacs = FakeDestination(answers=[DestinationDown("it does not answer")])
    lane = department.lane(pacs)
    outgoing = department.outgoing(lane)
    for name in "ab":
        department.judged(name)
    for _ in range(24 * 6):
        department.work(lane)
        department.wait(minutes=10)
        assert {department.entry(name).state for name in "ab"} == {"waiting"}
    department.wait(minutes=30)
    department.work(lane)
    [problem] = outgoing.problems()
    assert problem.startswith("2 results could not be delivered to PACS since ")
    assert problem.endswith(" UTC: it does not answer.")
    assert outgoing.counts()["PACS"] == {"waiting": 0, "sent": 0, "done": 0, "nothing": 0, "dead": 2}
    assert any("could not be delivered to PACS" in record.getMessage() for record in caplog.records)
    tried = len(pacs.tries)
    department.wait(days=3)
    assert department.work(lane) == 0
    assert len(pacs.tries) == tried
    pacs.answers = [None]
    assert outgoing.send_again() == 2
    assert department.work(lane) == 2
    assert outgoing.problems() == []


def test_a_program_that_was_off_for_days_tries_before_it_gives_up(department: Department) -> None:
    pacs = FakeDestination(answers=[TryAgain("it refused it with status 0110")])
    department.lane(pacs)
    department.judged("a")
    department.work(department.lane(pacs))
    department.wait(days=3)
    department.open_queue()
    lane = department.lane(pacs)
    department.work(lane)
    assert department.entry("a").state == "waiting"
    for _ in range(24):
        department.wait(minutes=16)
        department.work(lane)
    assert department.entry("a").state == "dead"
    assert len(pacs.tries) == 20


def test_one_that_fails_holds_up_no_other(department: Department) -> None:
    pacs = FakeDestination(answers=[TryAgain("not this one"), RuntimeError("a defect"), None])
    lane = department.lane(pacs)
    for name in "abc":
        department.judged(name)
    assert department.work(lane) == 3
    assert len(pacs.got) == 1
    department.wait(seconds=6)
    assert department.work(lane) == 2
    assert len(pacs.got) == 3


def test_refused_for_good_is_dead_and_nothing_to_send_is_silent(department: Department) -> None:
    pacs = FakeDestination(answers=[Refused("gone"), NothingToSend(), None])
    lane = department.lane(pacs)
    department.judged("a")
    department.work(lane)
    assert department.entry("a").state == "dead"
    department.judged("b")
    department.work(lane)
    assert department.entry("b").state == "nothing"
    newer = department.judged("b", b"P2")
    department.work(lane)
    assert pacs.got == [("inbox/b", newer)]
    department.judged("a", b"P2")  # a newer verdict of a dead one
    assert department.work(lane) == 1
    assert department.outgoing(lane).problems() == []


def test_a_confirmation_ends_it(department: Department) -> None:
    pacs = FakeDestination(answers=[Awaiting("t1"), Awaiting("t2"), Awaiting("t3")])
    lane = department.lane(pacs)
    department.judged("a")
    department.work(lane)
    assert department.entry("a").state == "sent"
    department.queue.confirm("another")
    assert department.entry("a").state == "sent"
    department.queue.confirm("t1", "it did not keep 1 of the objects")
    entry = department.entry("a")
    assert (entry.state, entry.said) == ("waiting", "it did not keep 1 of the objects")
    department.wait(seconds=6)
    department.work(lane)  # t2, which is never confirmed
    department.wait(minutes=14)
    assert department.work(lane) == 0
    department.wait(minutes=2)
    department.queue.confirm("t3")  # before it is noted as sent
    department.work(lane)
    department.wait(minutes=1)
    department.work(lane)
    assert department.entry("a").state == "done"
    assert len(pacs.got) == 3
    department.queue.confirm("t1")
    department.queue.confirm("t3", "too late")
    assert department.entry("a").state == "done"


def test_a_pacs_that_never_confirms_ends_dead(department: Department) -> None:
    pacs = FakeDestination(answers=[Awaiting("t")])
    lane = department.lane(pacs)
    department.judged("a")
    for _ in range(24 * 12 + 12):
        department.work(lane)
        department.wait(minutes=5)
    assert department.entry("a").state == "dead"
    assert "did not confirm" in department.outgoing(lane).problems()[0]
    assert len(pacs.got) < 24 * 4


def test_a_rebuilt_worklist_sends_nothing_again(department: Department) -> None:
    pacs = FakeDestination()
    lane = department.lane(pacs)
    names = [f"{number}" for number in range(5)]
    for name in names:
        department.judged(name)
    department.work(lane)
    rows = list(department.index.all())
    department.index.close()
    for path in department.folder.glob("index.sqlite*"):
        path.unlink()
    department.index = SqliteIndex(department.folder / "index.sqlite")
    lane = department.lane(pacs)  # while the worklist is filled: nothing counts as forgotten
    assert len(department.queue.keys("PACS")) == 5
    with department.index.filling():
        for row in reversed(rows):
            department.index.record(row)
    assert department.work(department.lane(pacs)) == 0
    department.judged("new")
    assert department.work(department.lane(pacs)) == 1


def test_a_damaged_queue_sends_the_last_day_again(department: Department) -> None:
    pacs = FakeDestination()
    department.work(department.lane(pacs))
    department.judged("a")
    department.work(department.lane(pacs))
    department.queue.close()
    (department.folder / "outgoing.sqlite").write_bytes(b"no database" * 1000)
    for path in department.folder.glob("outgoing.sqlite-*"):
        path.unlink()
    department.open_queue()
    department.judged("b")
    department.work(department.lane(pacs))
    assert sorted(key for key, _ in pacs.got) == ["inbox/a", "inbox/a", "inbox/b"]


def test_many_rows_of_one_change_are_all_seen(
    department: Department, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.outgoing.lane._AT_ONCE", 3)
    pacs = FakeDestination()
    lane = department.lane(pacs)
    names = [f"{number}" for number in range(8)]
    for name in names:
        department.judged(name)
    department.index.wait([f"inbox/{name}" for name in names], department.now)  # one change for all
    assert department.work(lane) == 8


def test_what_is_forgotten_leaves_the_queue(department: Department) -> None:
    pacs = FakeDestination(answers=[DestinationDown("it does not answer")])
    lane = department.lane(pacs)
    for name in ("Zaphod", "b"):
        department.judged(name)
    department.work(lane)
    assert erase_xray("inbox/Zaphod", department.store, department.index, 0, department.queue)
    assert department.queue.keys("PACS") == ["inbox/b"]
    stored = b"".join(path.read_bytes() for path in department.folder.glob("outgoing.*"))
    assert b"Zaphod" not in stored
    assert b"inbox/b" in stored


def test_what_another_machine_forgot_leaves_the_queue(department: Department) -> None:
    lane = department.lane(FakeDestination())
    department.judged("Zaphod")
    department.work(lane)
    department.index.remove("outbox/Zaphod.json")
    department.lane(FakeDestination())  # looks at its start, and once an hour
    assert department.queue.keys("PACS") == []


def test_a_copy_of_a_stacks_worklist_is_followed_once_it_is_whole(department: Department) -> None:
    department.index.close()
    for path in department.folder.glob("index.sqlite*"):
        path.unlink()
    department.index = SqliteIndex(department.folder / "index.sqlite")
    pacs = FakeDestination()
    lane = department.lane(pacs)
    etag = department.judged("a")
    assert department.work(lane) == 0
    department.index.set_mirrored(department.now, department.now)
    assert department.work(lane) == 1
    assert pacs.got == [("inbox/a", etag)]


def test_an_xray_that_is_back_is_sent(department: Department) -> None:
    pacs = FakeDestination(answers=[NothingToSend("the X-ray is no longer in the inbox"), None])
    lane = department.lane(pacs)
    department.judged("a")
    assert department.work(lane) == 1
    assert department.work(lane) == 0
    department.index.mark("inbox/a", "deleted")  # its row changes
    assert department.work(lane) == 1
    assert department.entry("a").state == "done"


@pytest.mark.parametrize("content", ["5", "null", "[1]", '{"PACS": 5}', '{"PACS": "2020-01-01"}', "{", "\0"])
def test_a_damaged_note_beside_the_queue_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "outgoing.json").write_text(content)
    department = Department(tmp_path)
    assert department.queue.place("PACS").since == department.now
    assert json.loads((tmp_path / "outgoing.json").read_text())["PACS"]
    department.close()


def test_all_destinations_are_noted_beside_the_queue(department: Department) -> None:
    names = [f"PACS {number}" for number in range(6)]
    start = threading.Barrier(len(names))

    def see(name: str) -> None:
        start.wait(10)
        department.queue.place(name)

    threads = [threading.Thread(target=see, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads((department.folder / "outgoing.json").read_text())) == names


def test_a_clock_that_was_ahead_hides_no_verdict(department: Department) -> None:
    pacs = FakeDestination()
    department.wait(days=365)
    lane = department.lane(pacs)
    department.wait(days=-365)
    lane.follow()
    department.judged("a")
    department.wait(minutes=1)
    assert department.work(lane) == 1


@pytest.mark.parametrize("failure", [DestinationDown("it does not answer"), TryAgain("not now")])
def test_a_clock_that_jumps_neither_blocks_nor_kills(department: Department, failure: Exception) -> None:
    pacs = FakeDestination(answers=[failure, None])
    lane = department.lane(pacs)
    department.judged("a")
    department.work(lane)
    department.wait(days=-2)
    assert department.work(lane) == 1
    assert department.entry("a").state == "done"
    pacs.answers = [failure]
    department.wait(days=2)
    department.judged("b")
    department.work(lane)
    department.wait(days=2)
    department.work(lane)
    assert {entry.state for entry in department.queue.entries("inbox/b")} == {"waiting"}


@pytest.mark.parametrize("method", ["begin", "finish"])
def test_a_queue_that_cannot_be_written_sends_nothing_over_and_over(
    department: Department, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(*_: object) -> None:
        raise IndexNotReady("the disk is full")

    pacs = FakeDestination()
    lane = department.lane(pacs)
    department.judged("a")
    lane.follow()
    monkeypatch.setattr(OutgoingQueue, method, fail)
    for _ in range(60):
        with suppress(IndexNotReady):
            lane.deliver_next()
        department.wait(seconds=1)
    assert len(pacs.got) == (0 if method == "begin" else 4)  # after 5, 10, 20 seconds
    monkeypatch.undo()
    department.wait(minutes=15)
    department.work(lane)
    assert department.entry("a").state == "done"


def test_a_rebuild_during_the_look_for_forgotten_xrays_removes_nothing(
    department: Department, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = department.lane(FakeDestination())
    department.judged("a")
    department.work(lane)
    with monkeypatch.context() as patch:
        files = iter(["one", "one", "one", "another"])  # two of the look for changes
        patch.setattr(department.index, "identity", lambda: next(files, "another"))
        patch.setattr(department.index, "get", lambda _: None)
        department.lane(FakeDestination())
    assert department.queue.keys("PACS") == ["inbox/a"]
