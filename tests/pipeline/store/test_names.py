"""Names that do not belong to a finished X-ray are ignored everywhere; all names print safely."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.classify import line, verdicts
from pipeline.events import Ignored, in_inbox, parse, s3_event
from pipeline.names import for_terminal, is_unfinished
from pipeline.reconcile import reconcile_inbox
from pipeline.store.archive import ArchiveStore, Location
from pipeline.store.folder import FolderStore
from pipeline.store.s3 import S3Store
from pipeline.store.watch import InboxWatcher
from pipeline.verdict import Release
from tests.pipeline.test_backfill import MemoryArchive
from tests.support.fakes import LIMIT, FakeEngine, MemoryStore, SentJobs, make_ports

HALF = [
    *("x.jpeg.crdownload", "Unconfirmed 123.crdownload", "x.JPEG.Part", "x.jpeg.opdownload", "x.partial"),
    *("x.jpeg.download/x.jpeg", "x.jpeg.download/Info.plist", "x.jpeg.filepart", "x.jpeg.download"),
    *(".in.x.jpeg.", ".pureftpd-upload.5f", "pureftpd-upload.5f", "x.jpeg.lftp-pget-status", "x.jpeg.upload"),
    *(".x.jpeg.Xa81bQ", ".~tmp~/x.jpeg", ".rsync-partial/x.jpeg", "x.jpeg.1a2b3c4d.partial", "x.jpeg.temp"),
    *("~syncthing~x.jpeg.tmp", ".syncthing.x.jpeg.tmp", ".stversions/x.jpeg", ".dropbox.cache/a/x.jpeg"),
    *("x.jpeg.!ut", "x.jpeg.!sync", "x.jpeg.!qB", "x.jpeg.bc!", "x.jpeg.aria2", "x.jpeg.incomplete"),
    *("x.jpeg.swp", "x.jpeg~", "#x.jpeg#", ".#x.jpeg", "~$x.jpeg", "x.jpeg.sb-12ab34cd-a1B2c3", "x.tmp"),
    *("x.jpeg_.gstmp", "x.jpeg.gstmp", "x.jpeg.azDownload", "x.jpeg.td", "x.jpeg.td.cfg", "x.jpeg.bts"),
    *("x.rslsc", "x.jpeg.getright", "x.jpeg.dap", "x.jpeg.mega", "x.jpeg.ytdl", "cifs1234", "x.jpeg.tmp-123"),
    *("x.jpeg.tmp.4711", "x.jpeg.crswap", "x.jpeg.part-Frag3", "x.jpeg.6eF5b5da", "IM0001.dcm.ABCDEF01"),
    *("x.jpeg___jb_tmp___", "x.jpeg.ffs_tmp", "x.jpeg.cyberduckpart/1", ".x.jpeg.icloud", "x.jpeg.uploading"),
]
SYSTEMS = [
    *(
        "._x.jpeg",
        ".DS_Store",
        "__MACOSX/x.jpeg",
        "Temporary Items/x",
        "Network Trash Folder/x",
        ".Trashes/x",
    ),
    *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "Desktop.ini", "$RECYCLE.BIN/S-1-5/x.jpeg", "Icon\r"),
    *("System Volume Information/x", "RECYCLER/S-1-5-21/Dc1.jpeg", "FOUND.000/FILE0000.CHK", ".Trash-1000/x"),
    *("@eaDir/x.jpeg/SYNOPHOTO_THUMB_XL.jpg", "ward/@eaDir/x.jpeg/SYNOINDEX", "@tmp/x", "#recycle/a/x.jpeg"),
    *("#snapshot/x", "@appstore/x", "@SynoDrive/x", "x.jpeg@SynoEAStream", "@Recycle/x", "@GMT-2026.01.01/x"),
    *(
        "@Recently-Snapshot/x",
        ".@__thumb/x.jpeg",
        "Network Recycle Bin 1/x",
        "~snapshot/x",
        ".snapshot/x",
    ),
    *(
        "lost+found/#12",
        ".Trashes/x",
        "trashbox/x",
        "files_trashbin/x.jpeg.d17",
        ".zfs/snapshot/a/x",
        ".nfs00001",
    ),
]
SYSTEMS += [
    *("RECYCLED/x.jpeg", "RECYCLE.BIN/x.jpeg", "Deleted Items/x.jpeg", "DfsrPrivate/Deleted/x.jpeg"),
    *("Thumbs.db:encryptable", "x.jpeg:Zone.Identifier", "x.jpeg\uf03aZone.Identifier", "x.jpeg:AFP_AfpInfo"),
    *("x.jpeg:Zone.Identifier:$DATA", "LOST.DIR/1"),
]
PEOPLES = [
    *(
        "cifs1234.jpeg",
        "cifs",
        "cifs12a",
        "x.tmp-a",
        "x.jpeg.20240101",
        "1.2.840.1abcdef0",
        "10:30.jpeg",
        "td",
    ),
    *(
        "recycled.jpeg",
        "deleted/x",
        "mega/x.jpeg",
        "Dr. Mega/x.jpeg",
        "zone.identifier.jpeg",
        "tmp-123",
        "x.tdcfg",
    ),
    *("x.jpeg", "part.jpeg", "part", "tmp", "tmp/x.jpeg", "temp/x", "download/x.jpeg", "Downloads/x.jpeg"),
    *(
        "upload/x",
        "recycle/x.jpeg",
        "snapshot/x",
        "trash/x",
        "dr.temp/x.jpeg",
        "St. Part/x",
    ),
    *(
        "@ward/x.jpeg",
        "#3/x.jpeg",
        "#3",
        "x~1.jpeg",
        "1.2.840.10008.5.1",
        "x.jpeg.bak",
        "a.part.jpeg",
        "~x/y",
    ),
    *("x.tmp.dcm", "IM.20240101", "partial.dcm", "desktop.jpeg", "thumbs.jpeg", "icons/x", "x (1).jpeg"),
    *(
        "found.jpeg",
        "x.sync-conflict-20260101-120000-ABCDEFG.jpeg",
        "download",
        "swp",
        "lost and found/x",
        "!",
    ),
]


@pytest.mark.parametrize("name", HALF + SYSTEMS)
def test_half_files_and_those_of_systems_are_known_by_their_names(name: str) -> None:
    assert is_unfinished(f"inbox/{name}")
    assert is_unfinished(f"inbox/ward 3/{name}")
    assert is_unfinished(name)


@pytest.mark.parametrize("name", PEOPLES)
def test_a_persons_own_name_that_looks_similar_is_judged(name: str) -> None:
    assert not is_unfinished(f"inbox/{name}")
    assert not is_unfinished(f"inbox/ward 3/{name}")


NAMES = ["x.jpeg.filepart", "@eaDir/x.jpeg/THUMB.jpg", "#recycle/x.jpeg", "y.jpeg.download/y.jpeg"]


def fill(folder: Path) -> None:
    for name in [*NAMES, "good.jpeg"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"P" + name.encode())


def test_the_watcher_ignores_them(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    fill(tmp_path / "inbox")
    said: list[str] = []
    watcher = InboxWatcher(tmp_path, lambda key, removed: said.append(key))
    watcher.scan(old=2e10)
    assert said == ["inbox/good.jpeg"]


@pytest.mark.parametrize("removed", [False, True])
def test_an_event_that_names_one_is_ignored_with_a_reason(removed: bool) -> None:
    keys = [f"inbox/{name}" for name in NAMES]
    records = in_inbox(parse(s3_event("b", keys, removed)))
    assert [type(record) for record in records] == [Ignored] * len(NAMES)
    assert {record.reason for record in records if isinstance(record, Ignored)} == {
        "hidden, unfinished or a system's own file, not an X-ray"
    }


def test_reconcile_does_not_queue_them(tmp_path: Path) -> None:
    store = MemoryStore()
    store.objects |= {f"inbox/{name}": b"P" for name in [*NAMES, "good.jpeg"]}
    ports = make_ports(tmp_path, store)
    queue = SentJobs()
    found = reconcile_inbox(store, ports.index, queue, datetime.now(UTC), timedelta(0))
    assert (queue.keys, found.waiting) == (["inbox/good.jpeg"], 1)
    ports.index.close()  # type: ignore[attr-defined]


def classified(*names: object) -> list[str]:
    found = verdicts(map(str, names), FakeEngine(), Release(number=1, version="test"), LIMIT, 1)
    return [verdict.source.key for verdict in found]


def test_classify_passes_them_over_in_a_folder_and_judges_one_that_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    assert classified(tmp_path) == [str(tmp_path / "good.jpeg")]
    named = [tmp_path / name for name in NAMES]
    assert classified(*named) == [str(path) for path in named]
    assert classified(tmp_path / "@eaDir") == [str(tmp_path / NAMES[1])]


def test_classify_passes_them_over_in_a_bucket_and_judges_one_that_is_named() -> None:
    store = MemoryStore()
    store.objects |= {f"a/{name}": b"P" for name in ["", *NAMES, "good.jpeg"]}

    def of(*names: str) -> list[str]:
        release = Release(number=1, version="test")
        found = verdicts(names, FakeEngine(), release, LIMIT, 1, open_store=lambda name: store)
        return [verdict.source.key for verdict in found]

    assert of("s3://b/a/") == of("s3://b") == ["a/good.jpeg"]
    assert of(f"s3://b/a/{NAMES[0]}") == [f"a/{NAMES[0]}"]


def test_backfill_passes_them_over_in_folder_and_bucket(tmp_path: Path, s3_store: S3Store) -> None:
    fill(tmp_path)
    here = Location(FolderStore(tmp_path, ("",), writable=False), "")
    for name in [*NAMES, "good.jpeg"]:
        s3_store.put(f"@tmp/{name}", b"P", None)  # a folder that is named may have any name
    for place in (here, Location(s3_store, "@tmp/"), Location(MemoryArchive({f"a/{NAMES[0]}": b""}), "a/")):
        keys = [job.key for job in ArchiveStore(place, Location(MemoryStore(), "")).jobs()]
        assert keys == ([] if isinstance(place.store, MemoryArchive) else ["inbox/good.jpeg"])


def test_what_would_act_on_a_terminal_is_escaped(tmp_path: Path) -> None:
    assert for_terminal("ä\u202e\x1b[2Jx\n\x9b1m\udcff") == "ä\\u202e\\x1b[2Jx\\n\\x9b1m\\udcff"
    path = tmp_path / "red\x1b[31m\r.jpeg"
    path.write_bytes(b"P")
    (verdict,) = verdicts([str(path)], FakeEngine(), Release(number=1, version="test"), LIMIT, 1)
    assert verdict.source.etag == hashlib.md5(b"P").hexdigest()
    assert line(verdict).isprintable()
