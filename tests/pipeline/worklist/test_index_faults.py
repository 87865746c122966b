"""A damaged, deleted, locked or full worklist file heals without a restart."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import IndexNotReady
from pipeline.events import s3_event
from pipeline.forget import erase_xray
from pipeline.intake import Ports, ingest
from pipeline.records import Job
from pipeline.worklist import database, rebuild
from pipeline.worklist.database import Database
from pipeline.worklist.rebuild import keep_whole, rebuild_index
from pipeline.worklist.sqlite import SqliteIndex
from pipeline.worklist.views import View, Worklist
from tests.support import webpage
from tests.support.fakes import MemoryStore, make_ports
from tests.support.indexes import DONE, KEY, NOW
from tests.support.machines import wait_for

COUNT = 120


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.sqlite"


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    """Provide ports with several verdicts; one source is gone."""
    ports = make_ports(tmp_path)
    store = ports.store
    assert isinstance(store, MemoryStore)
    store.objects.update({f"inbox/{number}.jpeg": b"P%d" % number for number in range(COUNT)})
    for _ in ports.host.run([Job(f"inbox/{number}.jpeg") for number in range(COUNT)]):
        pass
    del store.objects["inbox/7.jpeg"]
    rebuild_index(store, ports.index)
    yield ports
    index_of(ports).close()


def index_of(ports: Ports) -> SqliteIndex:
    assert isinstance(ports.index, SqliteIndex)
    return ports.index


def spoil(path: Path) -> None:
    """Write nonsense over the middle of the file, after moving the log's content there."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(b"\xa5" * (size // 2))


def delete(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def delete_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(b"")


def garble_a_time(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE rows SET started_at = 'never' WHERE key = 'inbox/8.jpeg'")


def garble_a_text(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE rows SET etag = CAST(x'ff00ff' AS TEXT)")


def drop_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DROP TABLE tally")


def lose_the_words(path: Path) -> None:
    """Make damage that a check of the file does not find."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE names_data SET block = x'00' WHERE id > 1")


FAULTS: list[Callable[[Path], None]] = [
    *(spoil, delete, delete_log, cut, empty, garble_a_time, garble_a_text, drop_a_table, lose_the_words)
]


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_happens_to_the_file_all_rows_are_right_again(
    ports: Ports, path: Path, fault: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(rebuild, "_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(rebuild, "_CHECK_SECONDS", 0.05)
    index, stopping = index_of(ports), threading.Event()
    before = {replace(row, change=0) for row in index.all()}
    assert len(before) == COUNT
    thread = threading.Thread(target=keep_whole, args=[ports.store, index, stopping])
    fault(path)
    thread.start()
    try:
        wait_for(lambda: is_as(index, before))
        assert {row.source for row in index.all() if row.key == "inbox/7.jpeg"} == {"deleted"}
        wait_for(lambda: is_recorded_and_found(index))
    finally:
        stopping.set()
        thread.join(10)


def is_recorded_and_found(index: SqliteIndex) -> bool:
    """Record a row that no outbox has; a repair that is still at work may lose it."""
    with suppress(IndexNotReady):
        index.record(DONE)
        return [row.key for row in Worklist(index).page(View(search="a.jpeg"), 2).rows] == [KEY]
    return False


def is_as(index: SqliteIndex, rows: object) -> bool:
    """Check that the page shows, finds and counts these rows, and that no foreign error is raised."""
    try:
        index.record(replace(DONE, key="inbox/0-x"))
        index.drop("inbox/0-x")
        return (
            index.is_filled()
            and {replace(row, change=0) for row in index.all()} == rows
            and sum(Worklist(index).counts().values()) == COUNT
            and len(Worklist(index).page(View(search="119.jpeg"), 5).rows) == 1
        )
    except IndexNotReady:
        return False


def test_a_damaged_file_is_replaced_when_it_is_opened(ports: Ports, path: Path) -> None:
    index_of(ports).close()
    spoil(path)
    again = SqliteIndex(path)
    assert not again.is_filled()
    assert rebuild_index(ports.store, again).verdicts == COUNT
    assert again.is_filled()
    again.close()
    sound = SqliteIndex(path)
    assert sound.is_filled()
    assert len(list(sound.all())) == COUNT
    sound.close()


def test_a_file_of_another_schema_is_not_filled(path: Path) -> None:
    index = SqliteIndex(path)
    with index.filling():
        pass
    assert index.is_filled()
    index.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute("ALTER TABLE rows DROP COLUMN message")
    again = SqliteIndex(path)
    assert not again.is_filled()
    again.record(DONE)
    again.close()


def test_another_index_on_the_file_follows(path: Path) -> None:
    first, second = SqliteIndex(path), SqliteIndex(path)
    first.record(DONE)
    delete(path)
    first.record(replace(DONE, key="inbox/b"))
    assert [row.key for row in second.all()] == ["inbox/b"]
    second.record(DONE)
    assert len(list(first.all())) == 2
    first.close()
    second.close()


def test_a_file_that_was_replaced_meanwhile_does_not_count_as_filled(path: Path) -> None:
    index = SqliteIndex(path)
    with index.filling():
        delete(path)
        index.record(DONE)
    assert not index.is_filled()
    index.close()


def test_a_filling_that_breaks_off_does_not_count(ports: Ports, path: Path) -> None:
    delete(path)
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(IndexNotReady, match="is stopping"):
        rebuild_index(ports.store, ports.index, stopping)
    assert not index_of(ports).is_filled()


def test_a_locked_file_is_said_and_takes_writes_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    index = SqliteIndex(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(IndexNotReady, match="locked by another program"):
            index.record(DONE)
        assert index.get(KEY) is None  # reading goes on
    index.record(DONE)
    assert index.get(KEY) is not None
    index.close()


def test_a_full_disk_is_said_and_loses_nothing(path: Path) -> None:
    index = SqliteIndex(path)
    index.record(DONE)
    connection = index._file._connection()
    connection.execute("PRAGMA max_page_count = 1")  # no more than there are
    with pytest.raises(IndexNotReady, match="disk is full"):
        index.wait([f"inbox/{number}" for number in range(2000)], NOW)
    connection.execute("PRAGMA max_page_count = 1000000")
    index.wait(["inbox/b"], NOW)
    assert {row.key for row in index.all()} == {KEY, "inbox/b"}
    index.close()


def test_a_closed_index_says_so(path: Path) -> None:
    index = SqliteIndex(path)
    index.close()
    with pytest.raises(IndexNotReady, match="closed"):
        index.get(KEY)


def test_the_page_says_that_the_worklist_is_rebuilt(page: webpage.Page, tmp_path: Path) -> None:
    page.judged("a.jpeg", b"P1")
    for address in ("/", "/xray/a.jpeg", "/api/verdicts", "/api/verdicts.csv", "/api/verdicts/a.jpeg"):
        garble_a_text(tmp_path / "index.sqlite")
        assert "rebuilt" in page.get(address, 503)
        rebuild_index(page.store, page.index)
    assert "a.jpeg" in page.get("/")


def test_an_event_waits_for_no_worklist(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict is written although its row cannot be; then the event comes again."""
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    store = ports.store
    assert isinstance(store, MemoryStore)
    store.objects.update({"inbox/x": b"P1", "inbox/y": b"N1"})
    index_of(ports).close()
    report = ingest(s3_event("b", ["inbox/x", "inbox/y"]), ports)
    assert {outcome.result for outcome in report.outcomes} == {"failed"}
    assert {"outbox/x.json", "outbox/y.json"} <= store.objects.keys()


def test_a_forgotten_name_is_in_no_file(ports: Ports, path: Path) -> None:
    index, key = index_of(ports), "inbox/Erika Mustermann 1987.jpeg"
    assert isinstance(ports.store, MemoryStore)
    ports.store.objects[key] = b"P1"
    index.wait([key], NOW)
    for number in range(200):  # to split pages and move rows
        index.record(replace(DONE, key=f"inbox/Erika Lindt {number}", verdict_key=None))
        index.record(replace(DONE, key=key, verdict_key="outbox/Erika Mustermann 1987.jpeg.json"))
    assert traces(path)
    assert erase_xray(key, ports.store, index, 0)
    assert traces(path) == []
    assert len(list(index.all())) == COUNT + 200
    page = Worklist(index).page(View(search="erika lindt 19"), 20)
    assert len(page.rows) == 12


def traces(path: Path) -> list[str]:
    """Return the files that still contain the name, whole or in the pieces by which it is searched."""
    files = [each for each in path.parent.iterdir() if each.is_file()]
    words = (b"Mustermann", b"mustermann", b"ust", b"stm")
    return [each.name for each in files if any(word in each.read_bytes() for word in words)]


def test_another_thread_may_find_the_file_unsound_at_any_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, connect = SqliteIndex(path), Database._connect
    index.record(DONE)

    def connect_while_another_fails(self: Database) -> sqlite3.Connection:
        found = connect(self)
        self._sound = None  # `_told` does this in the thread that failed
        return found

    monkeypatch.setattr(Database, "_connect", connect_while_another_fails)
    with ThreadPoolExecutor(1) as pool:  # a thread without a connection yet
        found = pool.submit(index.get, KEY).result()
    assert found
    assert found.key == KEY
    index.close()
