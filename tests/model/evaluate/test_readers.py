"""Verdicts compared with what readers said: figures that can be counted by hand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cxr.commands import app
from model.evaluate.readers import evaluate_reviews, readers_table
from pipeline.errors import UsageError
from pipeline.judge import Judge, read_verdict
from pipeline.names import verdict_key
from pipeline.records import Job
from pipeline.reviews.kept import Word, write_review
from pipeline.reviews.review import Said
from pipeline.store.folder import FolderStore
from tests.support.fakes import LIMIT, FakeEngine
from tests.support.webpage import RELEASE

NOW = datetime(2026, 11, 26, tzinfo=UTC)
Read = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@pytest.fixture
def read(store: FolderStore) -> Read:
    """Provide a function that judges an X-ray and lets readers say something about it, in turn."""

    def add(name: str, data: bytes, *words: tuple[str | None, Said], blind: bool = False) -> None:
        key = f"inbox/{name}"
        now = store.head(key)
        store.put(key, data, now.etag if now else None)
        Judge(store, FakeEngine(), RELEASE, LIMIT).judge(Job(key))
        etag = read_verdict(store, verdict_key(key)).etag or ""
        for number, (user, said) in enumerate(words):
            moment = NOW + timedelta(seconds=number)
            write_review(store, key, etag, Word(said, user, blind=blind), moment)

    return add


def test_each_verdict_counts_once_by_the_last_word_of_each_reader(store: FolderStore, read: Read) -> None:
    for number in range(3):
        read(f"p{number}", b"P%d" % number, ("ada", "agree"))
    read("p3", b"P3", ("ada", "agree"), ("ada", "disagree"))  # she changed her mind
    read("n0", b"N0", ("ada", "agree"), ("bob", "agree"), ("cem", "disagree"))
    read("n1", b"N1", ("ada", "disagree"), ("bob", "unsure"))
    read("n2", b"N2", ("ada", "agree"), ("bob", "disagree"))  # a tie
    read("n3", b"N3", ("ada", "unsure"))
    read("n4", b"N4", ("ada", "agree"), ("ada", "withdrawn"))
    read("u0", b"P atypical", ("ada", "pneumonia"), blind=True)
    read("u1", b"N atypical")
    read("bad", b"bad")
    found = evaluate_reviews(store)
    assert (found.verdicts, found.read, found.unread, found.readers) == (11, 9, 2, 3)
    assert (found.several, found.tied, found.unsure, found.of_replaced) == (3, 1, 1, 0)
    assert found.called == {
        "normal": {"pneumonia": 1, "not_pneumonia": 1, "unsure": 1, "tied": 1},
        "pneumonia": {"pneumonia": 3, "not_pneumonia": 1, "unsure": 0, "tied": 0},
        "uncertain": {"pneumonia": 1, "not_pneumonia": 0, "unsure": 0, "tied": 0},
    }
    figures = [found.agreed, found.sensitivity, found.specificity, found.ppv, found.npv]
    assert [figure and figure.value for figure in figures] == [0.6667, 0.75, 0.5, 0.75, 0.5]
    assert all(figure and figure.low < figure.value < figure.high for figure in figures)
    assert {one.name: (one.verdicts, one.undecided) for one in found.by_warning} == {
        "atypical": (1, 0),
        "no warning": (8, 2),
    }
    assert [(one.name, one.verdicts, one.agreed is None) for one in found.by_way] == [
        ("blind", 1, True),
        ("verdict shown", 8, False),
    ]
    assert {word: share and share.value for word, share in found.read_by_label.items()} == {
        "normal": 0.8,
        "pneumonia": 1.0,
        "uncertain": 0.5,
    }
    assert "verification bias" in found.note
    assert max(map(len, readers_table(found).splitlines())) <= 110


def test_a_replaced_verdict_counts_only_where_that_is_asked_for(store: FolderStore, read: Read) -> None:
    read("a", b"P1", ("ada", "agree"))
    read("a", b"N2")
    with pytest.raises(UsageError, match="--all"):
        evaluate_reviews(store)
    found = evaluate_reviews(store, everything=True)
    assert (found.read, found.unread, found.of_replaced) == (1, 1, 1)
    assert found.called["pneumonia"]["pneumonia"] == 1


def test_the_command(store: FolderStore, read: Read, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["evaluate", *arguments])
        return done.exit_code, done.stdout + str(done.exception or "")

    code, said = run("--reviews", str(tmp_path))
    assert (code != 0, "nobody has reviewed" in said) == (True, True)
    read("a", b"P1", ("ada", "agree"))
    for name in (tmp_path, tmp_path / "outbox"):
        code, said = run("--reviews", str(name))
        assert code == 0
        assert said.startswith("1 verdict read by 1 reader; 0 of the 1")
    assert '"sensitivity"' in run("--reviews", str(tmp_path), "--json")[1]
    missing, folder = str(tmp_path / "no"), str(tmp_path)
    for wrong in (["--reviews", missing], ["--reviews", "s3://b/folder"], [folder, "--reviews", folder]):
        assert run(*wrong)[0] != 0
