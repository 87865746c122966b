"""One contract for every store: the fake, the folder, and S3 (moto)."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import (
    ConditionFailed,
    KeyNotUsable,
    ObjectTooLarge,
    ObjectUnreadable,
    StoreError,
    UsageError,
)
from pipeline.ports import Landing, Store
from pipeline.store.files import Place, at
from pipeline.store.folder import FolderStore
from pipeline.store.s3 import S3Store
from tests.support.fakes import MemoryStore

KEY = "inbox/ward 3/ä + 100%.jpeg"


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "folder":
        yield FolderStore(request.getfixturevalue("tmp_path"))
    else:
        yield request.getfixturevalue("s3_store")


def test_create_read_replace_delete(store: Store) -> None:
    assert store.head(KEY) is None
    assert store.get(KEY, 10) is None
    first = store.put(KEY, b"one", None)
    info = store.head(KEY)
    assert info is not None
    assert (info.key, info.etag, info.size) == (KEY, first, 3)
    second = store.put(KEY, b"two!", first)
    found = store.get(KEY, 10)
    assert found is not None
    assert (found[0].etag, found[1]) == (second, b"two!")
    store.delete(KEY)
    store.delete(KEY)
    assert store.head(KEY) is None


def test_a_file_becomes_a_new_object_or_changes_nothing(store: Landing, tmp_path: Path) -> None:
    for number, data in enumerate((b"one", b"other")):
        path = tmp_path / f"{number}"
        path.write_bytes(data)
        with suppress(ConditionFailed):
            store.put_file(KEY, path)
            assert number == 0
        found = store.get(KEY, 10)
        assert found
        assert found[1] == b"one"


def test_a_file_in_the_folder_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, synced, sync = FolderStore(tmp_path), list[str](), os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(str(tmp_path)))
        sync(descriptor)

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    new = tmp_path / ".cxr/new"
    new.write_bytes(b"data")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noted)
        store.put_file("inbox/a", new)
        assert synced == ["/.cxr/new", "/inbox"]
        with suppress(ConditionFailed):  # what came a moment ago is made safe as well
            store.put_file("inbox/a", new)
        assert synced[3:] == ["/inbox"]
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match="Input/output"):
        store.put_file("inbox/b", new)


def test_a_write_on_a_wrong_condition_changes_nothing(store: Store) -> None:
    with pytest.raises(ConditionFailed):
        store.put(KEY, b"x", "0" * 32)
    first = store.put(KEY, b"one", None)
    with pytest.raises(ConditionFailed):
        store.put(KEY, b"other", None)
    second = store.put(KEY, b"two", first)
    with pytest.raises(ConditionFailed):
        store.put(KEY, b"three", first)
    found = store.get(KEY, 10)
    assert found is not None
    assert (found[0].etag, found[1]) == (second, b"two")


def test_the_etag_is_that_of_a_plain_upload(store: Store) -> None:
    assert store.put(KEY, b"hello", None) == "5d41402abc4b2a76b9719d911017c592"


def test_a_large_object_is_described_and_not_read(store: Store) -> None:
    etag = store.put(KEY, b"x" * 11, None)
    with pytest.raises(ObjectTooLarge) as caught:
        store.get(KEY, 10)
    assert (caught.value.info.etag, caught.value.info.size) == (etag, 11)


def test_listing_by_prefix(store: Store) -> None:
    for key in ("inbox/a", "inbox/b/c", "outbox/a.json", "outbox/.previews/1/2.jpg"):
        store.put(key, b"1", None)
    assert sorted(info.key for info in store.list("inbox/")) == ["inbox/a", "inbox/b/c"]
    assert sorted(info.key for info in store.list("outbox/")) == ["outbox/.previews/1/2.jpg", "outbox/a.json"]
    assert [info.key for info in store.list("outbox/.previews/1/")] == ["outbox/.previews/1/2.jpg"]
    assert not list(store.list("inbox/none/"))


def test_purging_leaves_nothing_of_a_key(store: Store) -> None:
    for key in ("inbox/a", "inbox/a.b", "outbox/.previews/1/2.jpg", "outbox/.previews/1/3.jpg"):
        store.put(key, b"1", None)
    assert store.purge("inbox/a") == 1
    assert store.purge("inbox/a") == 0
    assert store.purge("outbox/.previews/1/") == 2
    assert [info.key for prefix in ("inbox/", "outbox/") for info in store.list(prefix)] == ["inbox/a.b"]


def test_purging_a_bucket_removes_the_versions_and_the_marks_of_deletion(s3_store: S3Store) -> None:
    client, bucket = s3_store._client, s3_store.bucket
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    etag = s3_store.put("inbox/a", b"1", None)
    s3_store.put("inbox/a", b"2", etag)
    s3_store.delete("inbox/a")
    s3_store.put("inbox/ab", b"3", None)
    assert s3_store.purge("inbox/a") == 3
    left = client.list_object_versions(Bucket=bucket)
    assert [item["Key"] for item in left["Versions"]] == ["inbox/ab"]
    assert "DeleteMarkers" not in left


def test_an_empty_object_is_an_object(store: Store) -> None:
    etag = store.put(KEY, b"", None)
    found = store.get(KEY, 10)
    assert found is not None
    assert (found[0].etag, found[0].size, found[1]) == (etag, 0, b"")


@pytest.mark.parametrize("store", ["folder", "s3"], indirect=True)
def test_of_many_creators_and_replacers_one_wins_each_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(store, S3Store):  # moto looks and then writes; S3 does both as one
        monkeypatch.setattr(store._client, "put_object", _one_by_one(store._client.put_object))
    expected: str | None = None
    for turn in range(3):
        won = _race([partial(store.put, KEY, b"%d %d" % (turn, i), expected) for i in range(6)])
        assert len(won) == 1
        expected = won[0]
        info = store.head(KEY)
        assert info is not None
        assert info.etag == expected


def _one_by_one(call: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    def locked(**request: Any) -> Any:
        with lock:
            return call(**request)

    return locked


def _race(writers: list[Callable[[], str]]) -> list[str]:
    won, start = [], threading.Barrier(len(writers))

    def run(write: Callable[[], str]) -> None:
        start.wait(10)
        with suppress(ConditionFailed):
            won.append(write())

    threads = [threading.Thread(target=run, args=[write]) for write in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return won


@pytest.mark.parametrize(
    "key",
    [
        "inbox/../../x",
        "inbox/./x",
        "inbox//x",
        "/inbox/x",
        "other/x",
        "inbox/a\0b",
        "outbox/../.cxr/index.sqlite",
    ],
)
def test_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path / "root")
    assert store.head(key) is None
    assert store.get(key, 10) is None
    store.delete(key)
    with pytest.raises(KeyNotUsable):
        store.put(key, b"x", None)


def test_links_and_pipes_are_no_objects(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "root")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.jpeg").write_bytes(b"secret")
    (store.root / "inbox/link.jpeg").symlink_to(secret / "a.jpeg")
    (store.root / "inbox/folder").symlink_to(secret)
    os.mkfifo(store.root / "inbox/pipe")
    for key in ("inbox/link.jpeg", "inbox/folder/a.jpeg", "inbox/pipe", "inbox"):
        assert store.head(key) is None
        assert store.get(key, 10) is None
    with pytest.raises(KeyNotUsable):
        store.put("inbox/folder/b.jpeg", b"x", None)
    assert not list(store.list("inbox/"))


def test_a_change_from_outside_is_seen_at_once(tmp_path: Path) -> None:
    """It is seen even if the size stays the same and the clock has not ticked."""
    store = FolderStore(tmp_path)
    path = tmp_path / "inbox/a"
    for number in range(200):
        path.write_bytes(b"%03d" % number)
        first = store.head("inbox/a")
        path.write_bytes(b"%03d" % (number + 500))
        second = store.head("inbox/a")
        assert first is not None
        assert second is not None
        assert first.etag != second.etag


def test_an_etag_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.folder._RACY_NS", 0)
    store = FolderStore(tmp_path)
    path = tmp_path / "inbox/a"
    path.write_bytes(b"x")
    first = store.head("inbox/a")
    monkeypatch.setattr("hashlib.md5", None)
    assert store.head("inbox/a") == first


def test_two_stores_on_one_root_share_their_locks(tmp_path: Path) -> None:
    one, other = FolderStore(tmp_path), FolderStore(tmp_path)
    first = one.put(KEY, b"1", None)
    won = _race([partial((one, other)[i % 2].put, KEY, b"%d" % (i + 2), first) for i in range(8)])
    assert len(won) == 1


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    left = tmp_path / ".cxr/tmp/left"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    store.put(KEY, b"whole", None)
    FolderStore(tmp_path)
    assert not list((tmp_path / ".cxr/tmp").iterdir())


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scanners and archives may write one size and set one time: only ctime differs."""
    monkeypatch.setattr("pipeline.store.folder._RACY_NS", 0)
    store = FolderStore(tmp_path)
    path = tmp_path / "inbox/a.tif"
    etags = set()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (1, 1))
        info = store.head("inbox/a.tif")
        assert info is not None
        etags.add(info.etag)
        time.sleep(0.02)
    assert len(etags) == 2


def test_what_may_not_be_read_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "inbox/a").write_bytes(b"123")

    really = os.open

    def refuse(path: str, *arguments: Any, **more: Any) -> int:
        if path == "a":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path, *arguments, **more)

    monkeypatch.setattr("os.open", refuse)
    info = store.head("inbox/a")
    assert info is not None
    assert info.size == 3
    with pytest.raises(ObjectUnreadable) as caught:
        store.get("inbox/a", 10)
    assert caught.value.info == info
    assert caught.value.__cause__ is None  # it would name the file


def test_a_share_without_links_keeps_the_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def looked(place: Place) -> os.stat_result | None:
        there = at(place)
        time.sleep(0.02)  # time for another to come in between
        return there

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("pipeline.store.folder.at", looked)
    store = FolderStore(tmp_path)
    won = _race([partial(store.put, KEY, b"%d" % i, None) for i in range(8)])
    assert len(won) == 1
    found = store.get(KEY, 10)
    assert found is not None
    assert found[0].etag == won[0]
    assert not list((tmp_path / ".cxr/tmp").iterdir())
    (tmp_path / "outbox/a.json").mkdir()
    with pytest.raises(KeyNotUsable):
        store.put("outbox/a.json", b"x", None)


def test_what_is_in_the_way_of_a_write_is_said(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "outbox/a.json").mkdir()
    (tmp_path / "inbox/a").write_bytes(b"1")
    for key in ("outbox/a.json", "inbox/a/b", "inbox/" + "n" * 250 + "/" + "n" * 256):
        with pytest.raises(KeyNotUsable):
            store.put(key, b"x", None)


def test_a_root_that_cannot_be_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="name another --root"):
        FolderStore(tmp_path / "file")
    (tmp_path / "scans").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/inbox").symlink_to(tmp_path / "scans")
    with pytest.raises(UsageError, match="is a link"):
        FolderStore(tmp_path / "root")
