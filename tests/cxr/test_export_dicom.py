"""`cxr export-dicom`, on a folder and on a bucket."""

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from pipeline.names import verdict_key
from pipeline.store.folder import FolderStore
from pipeline.store.s3 import S3Store
from tests.support.commands import cxr
from tests.support.results import KEY, classified, preview, refused, results, source, stored


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root with one X-ray and its verdict."""
    folder = FolderStore(tmp_path / "data")
    for key, data in stored(source(), classified()).objects.items():
        folder.put(key, data, None)
    return tmp_path / "data"


def test_the_files_are_written_and_named(root: Path, tmp_path: Path) -> None:
    made = results(source(), classified())
    for key in ("x.dcm", KEY):
        done = cxr("export-dicom", key, "--root", root, "--out", tmp_path / "new/out")
        assert (done.returncode, done.stderr) == (0, b"")
        paths = [Path(line) for line in done.stdout.decode().splitlines()]
        assert [path.name for path in paths] == [f"{one.kind}-{one.uid}.dcm" for one in made]
        assert [path.read_bytes() for path in paths] == [one.data for one in made]
        assert len(list((tmp_path / "new/out").iterdir())) == 2


def test_an_error_is_one_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = FolderStore(root), tmp_path / "out"

    def refusal(key: str = "x.dcm", code: int = 1, to: Path = out) -> str:
        done = cxr("export-dicom", key, "--root", root, "--out", to)
        assert (done.returncode, done.stdout) == (code, b"")
        said = done.stderr.decode()
        assert said.count("\n") == 1
        assert "Doe" not in said
        return said

    (tmp_path / "file").write_text("")
    assert "name another --out" in refusal(to=tmp_path / "file", code=2)
    assert "is in the inbox" in refusal(to=root / "inbox/sub", code=2)
    assert "no verdict yet" in refusal("y.dcm")
    folder.put("inbox/a.jpeg", preview(), None)
    told = refused("rejected", "unreadable")
    etag = folder.head("inbox/a.jpeg").etag
    told = told.model_copy(update={"source": told.source.model_copy(update={"etag": etag})})
    folder.put(verdict_key("inbox/a.jpeg"), told.to_json(), None)
    assert "not a DICOM file" in refusal("a.jpeg")

    load = builtins.__import__

    def lacks(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] in ("pydicom", "highdicom") or name == "model.results.belonging":
            raise ModuleNotFoundError(f"No module named {name!r}", name="pydicom")
        return load(name, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", lacks)
        assert "pip install 'cxr-inbox[pacs]'" in refusal(code=2)

    folder.put(KEY, source(PatientID="18"), folder.head(KEY).etag)
    assert "replaced after its verdict" in refusal()
    folder.delete(KEY)
    assert "no longer in the inbox" in refusal()
    assert not out.exists()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        s3: Any = boto3.client("s3", "us-east-1")
        s3.create_bucket(Bucket="xrays")
        yield S3Store("xrays", s3)


@pytest.mark.whole
def test_a_bucket(bucket: S3Store, tmp_path: Path) -> None:
    for key, data in stored(source(), classified()).objects.items():
        bucket.put(key, data, None)
    done = cxr("export-dicom", "x.dcm", "--bucket", "xrays", "--out", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    made = results(source(), classified())
    assert [Path(line).read_bytes() for line in done.stdout.decode().splitlines()] == [
        one.data for one in made
    ]
