"""The folder store with unusual trees, links that come and go, and other users of the machine."""

import gc
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cxr import local
from handlers import wiring
from pipeline.classify import verdicts
from pipeline.errors import ConditionFailed, KeyNotUsable, StoreError, UsageError
from pipeline.events import s3_event
from pipeline.intake import Ports
from pipeline.judge import Judge
from pipeline.names import verdict_key
from pipeline.reconcile import reconcile_inbox
from pipeline.records import Job
from pipeline.store import files
from pipeline.store.folder import FolderStore
from pipeline.store.walk import keys
from pipeline.store.watch import InboxWatcher
from pipeline.verdict import Release
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import LIMIT, FakeEngine, InlineHost, SentJobs

DEPTH = 1_100


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "root")


@pytest.fixture
def dig() -> Iterator[Callable[[Path, str], str]]:
    """Run `_dig` and remove its folders afterwards; they are too deep for pytest to clean up."""
    dug: list[Path] = []

    def made(folder: Path, name: str) -> str:
        dug.append(folder / name)
        return _dig(folder, name)

    yield made
    subprocess.run(["rm", "-rf", *dug], check=True)


def _dig(folder: Path, name: str) -> str:
    """Nest folders until their path is too long to be named; the innermost has one file."""
    reached = os.open(folder, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir(name, dir_fd=reached)
        inner = os.open(name, os.O_RDONLY, dir_fd=reached)
        os.close(reached)
        reached = inner
    with os.fdopen(os.open("x", os.O_WRONLY | os.O_CREAT, dir_fd=reached), "wb") as file:
        file.write(b"P")
    os.close(reached)
    return "/".join([name] * DEPTH) + "/x"


def test_folders_in_one_another_without_end(store: FolderStore, dig: Callable[[Path, str], str]) -> None:
    inbox = store.root / "inbox"
    found = {f"inbox/{dig(inbox, name)}" for name in ("d", "folder")}
    (inbox / "a").write_bytes(b"P")
    assert {info.key for info in store.list("inbox/")} == {*found, "inbox/a"}
    assert {job.key for job in store.jobs("inbox/")} == {*found, "inbox/a"}
    said: list[str] = []
    InboxWatcher(store.root, lambda key, removed: said.append(key)).scan(old=2e10)
    assert set(said) == {*found, "inbox/a"}
    judge = Judge(store, FakeEngine(), Release(number=1, version="test"), LIMIT)
    for key in found:
        assert judge.judge(Job(key)).result == "rejected"
        verdict = store.get(verdict_key(key), LIMIT)
        assert verdict is not None
        assert b"name_not_usable" in verdict[1]
    of = verdicts([str(inbox)], FakeEngine(), judge.release, LIMIT, 1)
    assert [verdict.status for verdict in of] == ["classified", "classified", "rejected"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
def test_a_walk_keeps_few_folders_open(tmp_path: Path, dig: Callable[[Path, str], str]) -> None:
    dig(tmp_path, "d")
    before = open_descriptors()
    walk = keys(tmp_path, "")
    next(walk)
    assert open_descriptors() - before < 20
    walk.close()  # type: ignore[attr-defined]
    assert open_descriptors() <= before


def open_descriptors() -> int:
    gc.collect()  # closes what earlier tests left, so that it does not hide what stays open here
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("seconds", [1_000_000_000_000, -1, -10_000_000_000, 4_000_000_000])
def test_files_of_any_time_are_described_and_watched(store: FolderStore, seconds: int) -> None:
    path = store.root / "inbox/a"
    path.write_bytes(b"P")
    os.utime(path, (seconds, seconds))
    info = store.head("inbox/a")
    assert info is not None
    assert list(store.list("inbox/")) == [info]
    assert info.modified.astimezone(UTC).isoformat()
    assert (datetime.now(UTC) - info.modified) / timedelta(days=1)
    said: list[str] = []
    InboxWatcher(store.root, lambda key, removed: said.append(key)).scan(old=2e12)
    assert said == ["inbox/a"]


def test_a_folder_where_a_verdict_should_be_stops_that_key_alone(store: FolderStore) -> None:
    (store.root / "outbox/a.json").mkdir()
    judge = Judge(store, FakeEngine(), Release(number=1, version="test"), LIMIT)
    for name in ("a", "b"):
        (store.root / "inbox" / name).write_bytes(b"P")
    stopped = judge.judge(Job("inbox/a"))
    assert (stopped.result, stopped.detail) == ("failed", "a folder or a link of the same name is in the way")
    assert judge.judge(Job("inbox/b")).result == "classified"
    assert [info.key for info in store.list("outbox/") if ".previews" not in info.key] == ["outbox/b.json"]
    (store.root / "outbox/a.json").rmdir()
    assert judge.judge(Job("inbox/a")).result == "classified"


def test_what_has_no_place_for_its_verdict_has_a_row_that_says_so(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_PAUSES", (0, 0))
    (store.root / "inbox/a").write_bytes(b"P")
    (store.root / "outbox/a.json").mkdir()
    judge = Judge(store, FakeEngine(), Release(number=1, version="test"), LIMIT)
    with closing(SqliteIndex(tmp_path / "rows.sqlite")) as index:
        ports = Ports(store, index, InlineHost(judge), judge.release, "secret")
        wiring.provide(ports)
        event = s3_event("b", ["inbox/a"])
        assert local.deliver(event).outcomes == [{"key": "inbox/a", "result": "given_up"}]
        row = index.get("inbox/a")
        assert row is not None
        assert (row.state, row.source) == ("failed", "present")
        assert "in the way in the outbox" in (row.message or "")
        (store.root / "outbox/a.json").rmdir()
        assert reconcile_inbox(store, index, SentJobs(), datetime.now(UTC), timedelta(0)).queued == 1
        assert local.deliver(event).outcomes == [{"key": "inbox/a", "result": "classified"}]
        row = index.get("inbox/a")
        assert row is not None
        assert (row.state, row.message) == ("pneumonia", None)


def test_names_that_are_no_text(store: FolderStore) -> None:
    (store.root / "inbox" / os.fsdecode(b"\xff\x1b[2J")).write_bytes(b"P")
    (info,) = store.list("inbox/")
    found = store.get(info.key, 10)
    assert found is not None
    assert found[1] == b"P"
    assert store.head("inbox/\ud800") is None
    with pytest.raises(KeyNotUsable):
        store.put("outbox/\ud800.json", b"", None)


def test_a_file_that_vanishes_while_it_is_read(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (store.root / "inbox" / name).write_bytes(b"P")
    head = FolderStore.head

    def vanishing(self: FolderStore, key: str) -> Any:
        if key == "inbox/b":
            (store.root / key).unlink()
        return head(self, key)

    monkeypatch.setattr(FolderStore, "head", vanishing)
    assert {info.key for info in store.list("inbox/")} == {"inbox/a", "inbox/c"}


@pytest.mark.skipif(not files.BY_DESCRIPTOR, reason="the system cannot hold folders")
def test_a_link_that_comes_during_a_call_leads_nowhere(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a").write_bytes(b"secret")
    ward = store.root / "inbox/ward"
    ward.mkdir()
    (ward / "a").write_bytes(b"X-ray")
    really = os.open

    def swapped(path: str, *arguments: Any, **more: Any) -> int:
        if path == "a" and not ward.is_symlink():
            ward.rename(store.root / "inbox/moved")
            ward.symlink_to(secret)
        return really(path, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", swapped)
        found = store.get("inbox/ward/a", 10)
    assert ward.is_symlink()
    assert found is not None
    assert found[1] == b"X-ray"
    assert store.get("inbox/ward/a", 10) is None
    assert store.head("inbox/ward/a") is None
    store.delete("inbox/ward/a")
    with pytest.raises(KeyNotUsable):
        store.put("inbox/ward/b", b"", None)
    with pytest.raises(ConditionFailed):
        store.put("inbox/ward/a", b"", "0" * 32)
    assert {path.name: path.read_bytes() for path in secret.iterdir()} == {"a": b"secret"}


@pytest.mark.skipif(not files.BY_DESCRIPTOR, reason="the system cannot hold folders")
@pytest.mark.parametrize("call", ["link", "replace", "unlink"])
def test_nothing_is_written_through_a_link_that_comes_during_a_call(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.json").write_bytes(b"secret")
    ward = store.root / "outbox/ward"
    etag = store.put("outbox/ward/a.json", b"1", None)
    really = getattr(os, call)

    def swapped(*arguments: Any, **more: Any) -> Any:
        if not ward.is_symlink():
            ward.rename(store.root / "outbox/moved")
            ward.symlink_to(secret)
        return really(*arguments, **more)

    monkeypatch.setattr(os, call, swapped)
    if call == "link":
        store.put("outbox/ward/new.json", b"2", None)
    elif call == "replace":
        store.put("outbox/ward/a.json", b"2", etag)
    else:
        store.delete("outbox/ward/a.json")
    assert ward.is_symlink()
    assert {path.name: path.read_bytes() for path in secret.iterdir()} == {"a.json": b"secret"}


def test_without_descriptors_links_are_not_followed_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BY_DESCRIPTOR", False)
    store = FolderStore(tmp_path / "root")
    etag = store.put("outbox/ward/a.json", b"1", None)
    etag = store.put("outbox/ward/a.json", b"2", etag)
    with pytest.raises(ConditionFailed):
        store.put("outbox/ward/a.json", b"3", None)
    assert [info.etag for info in store.list("outbox/")] == [etag]
    (store.root / "outbox/away").symlink_to(tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    assert store.get("outbox/away/secret", 10) is None
    with pytest.raises(KeyNotUsable):
        store.put("outbox/away/b", b"", None)
    store.delete("outbox/ward/a.json")
    assert not list(store.list("outbox/"))


def modes(root: Path) -> dict[str, int]:
    return {
        path.relative_to(root).as_posix(): stat.S_IMODE(path.lstat().st_mode)
        for path in [root, *root.rglob("*")]
    }


def test_what_is_made_is_for_its_user_alone(store: FolderStore) -> None:
    etag = store.put("outbox/ward/a.json", b"1", None)
    store.put("outbox/ward/a.json", b"2", etag)
    store.put("outbox/.previews/1/2.jpg", b"1", None)
    SqliteIndex(store.root / ".cxr/index.sqlite").close()
    made = modes(store.root)
    assert {"outbox/ward/a.json", "outbox/.previews/1/2.jpg", ".cxr/locks", "inbox"} < made.keys()
    assert {name: oct(mode) for name, mode in made.items() if mode & 0o077} == {}


def test_what_an_earlier_release_left_open_is_closed(tmp_path: Path) -> None:
    for name in ("inbox", ".cxr/tmp"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".cxr").chmod(0o755)
    FolderStore(tmp_path)
    made = modes(tmp_path)
    assert (made[".cxr"], made[".cxr/tmp"], made["inbox"]) == (0o700, 0o700, 0o755)


def test_a_folder_that_a_group_shares_is_shared_further(tmp_path: Path) -> None:
    """Linux passes on the set-group-ID bit that marks it; other users see nothing."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o2770)
    umask = os.umask(0o002)
    try:
        store = FolderStore(root)
        store.put("outbox/ward/a.json", b"1", None)
        (root / ".cxr/new").write_bytes(b"X-ray")
        (root / ".cxr/new").chmod(0o600)
        store.put_file("inbox/a.dcm", root / ".cxr/new")
    finally:
        os.umask(umask)
    made = {name: mode & 0o777 for name, mode in modes(root).items()}
    assert made["outbox/ward/a.json"] == made["inbox/a.dcm"] == 0o660
    assert {made[name] for name in ("outbox", "outbox/ward", ".cxr", ".cxr/tmp", "inbox")} == {0o770}
    assert (root / "outbox/ward/a.json").stat().st_gid == root.stat().st_gid


def test_a_link_within_the_root_is_no_folder_of_it_either(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inbox").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        FolderStore(tmp_path)


def test_a_folder_that_went_is_made_again(store: FolderStore) -> None:
    store.put("outbox/ward/a.json", b"1", None)
    for name in ("ward/a.json",):
        (store.root / "outbox" / name).unlink()
    (store.root / "outbox/ward").rmdir()
    (store.root / ".cxr/tmp").rmdir()
    assert store.put("outbox/ward/a.json", b"1", None)
    with pytest.raises(ConditionFailed):
        store.put("outbox/gone/a.json", b"1", "0" * 32)
    assert not (store.root / "outbox/gone").exists()


def test_a_file_that_does_not_change_is_read_though_its_inode_wanders(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network shares number files anew at each look."""
    (store.root / "inbox/a").write_bytes(b"P")
    really, number = os.fstat, iter(range(1_000_000, 2_000_000))

    def wandering(descriptor: int) -> os.stat_result:
        found = really(descriptor)
        times = {
            name: getattr(found, name) for name in dir(found) if name.startswith("st_") and "time" in name
        }
        return os.stat_result([found[0], next(number), *found[2:10]], times)

    monkeypatch.setattr(os, "fstat", wandering)
    found = store.get("inbox/a", 10)
    assert found is not None
    assert store.head("inbox/a") == found[0]


def test_a_file_that_changes_while_it_is_read_is_not_taken(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.root / "inbox/a"
    path.write_bytes(b"P")
    really = os.fstat
    sizes = iter(range(2, 1000))

    def changing(descriptor: int) -> os.stat_result:
        path.write_bytes(b"P" * next(sizes))
        return really(descriptor)

    monkeypatch.setattr(os, "fstat", changing)
    with pytest.raises(StoreError, match="keeps changing"):
        store.get("inbox/a", 5000)
    with pytest.raises(StoreError, match="keeps changing"):
        store.head("inbox/a")
