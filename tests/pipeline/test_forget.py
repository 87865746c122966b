"""Erasing: nothing of an X-ray remains, whatever else is running."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr import local
from handlers import wiring
from pipeline import forget as module
from pipeline.errors import StoreError, UsageError
from pipeline.events import s3_event
from pipeline.forget import erase_xray, erase_xrays, is_known
from pipeline.intake import Ports
from pipeline.names import BOOKMARK
from pipeline.reconcile import note_next_look
from pipeline.records import Job
from pipeline.store.s3 import S3Store
from tests.support.fakes import MemoryStore, make_judge, make_ports, store_of

KEY = "inbox/a.jpeg"


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    ports = make_ports(tmp_path)
    wiring.provide(ports)
    store_of(ports).objects.update({KEY: b"P1", "inbox/a.jpeg.png": b"N1"})
    local.deliver(s3_event("b", list(store_of(ports).objects)))
    yield ports
    ports.index.close()  # type: ignore[attr-defined]


def test_all_of_one_goes_and_the_others_stay(ports: Ports) -> None:
    before = set(store_of(ports).objects)
    assert erase_xray(KEY, ports.store, ports.index, 0) is True
    after = set(store_of(ports).objects)
    assert len(before - after) == 3  # the X-ray, its verdict, its preview
    assert {key for key in after if key.endswith(".json")} == {"outbox/a.jpeg.png.json"}
    assert ports.index.get(KEY) is None
    assert ports.index.get("inbox/a.jpeg.png") is not None
    assert erase_xray(KEY, ports.store, ports.index, 0) is False


def test_of_several_the_failure_of_one_keeps_no_other(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    other, purge = "inbox/a.jpeg.png", store_of(ports).purge

    def refusing(key: str) -> int:
        if key == other:
            raise StoreError("the folder cannot be written to")
        return purge(key)

    monkeypatch.setattr(ports.store, "purge", refusing)
    erased = erase_xrays([other, KEY, "inbox/none", "inbox/"], ports.store, ports.index, 0)
    assert erased.found == {KEY: True, "inbox/none": False}
    assert {key: str(error) for key, error in erased.failed.items()} == {
        other: "the folder cannot be written to",
        "inbox/": "name one X-ray, not a folder",
    }
    assert ports.index.get(other) is not None
    late = erase_xrays([other], ports.store, ports.index, 0, seconds=-1)
    assert str(late.failed[other]) == "there was no time left for it"


def test_no_bookmark_of_reconcile_names_it(ports: Ports) -> None:
    note_next_look(ports.store, KEY)
    note_next_look(ports.store, "inbox/b")  # a bucket keeps the version before
    assert erase_xray(KEY, ports.store, ports.index, 0)
    assert not ports.store.holds(BOOKMARK)
    note_next_look(ports.store, "inbox/b")
    assert not erase_xray(KEY, ports.store, ports.index, 0)  # that was not a trace of it


def test_what_is_known_of_a_name(ports: Ports) -> None:
    """A verdict or a row alone is enough; a similar name does not count."""
    assert is_known(KEY, ports.store, ports.index)
    assert not is_known("inbox/a.jpe", ports.store, ports.index)
    ports.store.delete(KEY)
    ports.index.remove("outbox/a.jpeg.json")
    assert is_known(KEY, ports.store, ports.index)
    assert erase_xray(KEY, ports.store, ports.index, 0)
    assert not is_known(KEY, ports.store, ports.index)
    ports.index.wait([KEY], ports.now())
    assert is_known(KEY, ports.store, ports.index)


def test_a_former_version_in_a_bucket_is_known(s3_store: S3Store, ports: Ports) -> None:
    s3_store._client.put_bucket_versioning(
        Bucket=s3_store.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    ports.index.remove("outbox/a.jpeg.json")
    assert not is_known(KEY, s3_store, ports.index)
    s3_store.put(KEY, b"P1", None)
    s3_store.delete(KEY)
    assert s3_store.head(KEY) is None
    assert is_known(KEY, s3_store, ports.index)
    assert s3_store.purge(KEY) == 2
    assert not is_known(KEY, s3_store, ports.index)


@pytest.mark.parametrize("key", ["inbox/", "inbox/ward/"])
def test_a_folder_is_never_erased(ports: Ports, key: str) -> None:
    store_of(ports).objects["inbox/ward/b.jpeg"] = b"P2"
    before = dict(store_of(ports).objects)
    with pytest.raises(UsageError, match="not a folder"):
        erase_xray(key, ports.store, ports.index, 0)
    assert store_of(ports).objects == before


def test_one_that_still_waits(ports: Ports) -> None:
    ports.index.wait([KEY], ports.now())
    assert erase_xray(KEY, ports.store, ports.index, 0) is True
    assert ports.index.get(KEY) is None


def test_a_job_at_work_that_writes_after_it(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job had read the X-ray before; its verdict arrives between two looks."""
    late = MemoryStore()
    late.objects[KEY] = b"P1"
    make_judge(late).judge(Job(KEY))
    del late.objects[KEY]
    writes = [late.objects]

    def sleep(_: float) -> None:
        store_of(ports).objects.update(writes.pop() if writes else {})

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert erase_xray(KEY, ports.store, ports.index) is True
    assert not any("a.jpeg.json" in key for key in store_of(ports).objects)


def test_what_never_ends_is_said(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: store_of(ports).objects.update({KEY: b"P1"}))
    with pytest.raises(StoreError, match="keeps writing it"):
        erase_xray(KEY, ports.store, ports.index)
