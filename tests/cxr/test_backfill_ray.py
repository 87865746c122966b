"""`cxr backfill --engine ray`: Ray workers give the same verdicts, even if one of them dies."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from cxr.archive import make_backfill, open_archive
from pipeline.errors import UsageError
from pipeline.settings import load_settings
from tests.cxr.test_backfill_command import said, verdicts
from tests.pipeline.test_backfill import results
from tests.system.test_up import varied

# Ray uses what it deprecates.
# Ray starts slowly beside other tests.
pytestmark = [pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.timeout(300)]
COUNT = 128
WORKER = "ray::MapWorker(MapBatches(_Worker))"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    for number in range(COUNT - 1):
        path = folder / f"{number % 5}/{number}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(varied(number))
    (folder / os.fsdecode(b"bad-\xff")).write_bytes(b"bad")  # a name that is no Unicode
    return folder


def test_the_verdicts_are_those_of_this_process(scans: Path, tmp_path: Path) -> None:
    from cxr import backfill_ray

    settings, ours, theirs = load_settings(), tmp_path / "ours", tmp_path / "theirs"
    store = open_archive(str(scans), str(ours))
    with closing(make_backfill(str(scans), str(ours), settings)) as here:
        expected = results(here.run(store.jobs()))
    assert Counter(expected.values()) == {"classified": COUNT - 1, "rejected": 1}
    answers = backfill_ray.backfill_with_ray(str(scans), str(theirs), settings, 2, None)
    first = next(answers)
    before = set(workers())
    assert before
    os.kill(min(before), signal.SIGKILL)
    told, seen = [first], set()
    for done in answers:
        told.append(done)
        seen |= set(workers())
    assert seen - before  # the dead one was at work: it was replaced, to do that again
    assert len({done.key for done in told}) == len(told)  # once each
    found = {done.key: done.result for done in told}
    assert found.keys() == expected.keys()
    # What the dead one had judged and not yet told is found done.
    assert all(result in (expected[key], "current") for key, result in found.items())
    assert list(found.values()).count("current") < 48
    assert {name: said(verdict) for name, verdict in verdicts(theirs).items()} == {
        name: said(verdict) for name, verdict in verdicts(ours).items()
    }


def test_wrong_weights_are_said_as_without_ray(scans: Path, tmp_path: Path) -> None:
    from cxr import backfill_ray

    weights = tmp_path / "wrong.onnx"
    weights.write_bytes(b"no network")
    settings = load_settings().model_copy(update={"weights": weights})
    with pytest.raises(UsageError, match="no network of this release"):
        next(backfill_ray.backfill_with_ray(str(scans), str(tmp_path / "outbox"), settings, 1, None))


def workers() -> Iterator[int]:
    """Yield the judging workers of this process's Ray."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if WORKER in path.read_text() and parent(parent(int(path.parent.name))) == os.getpid():
                yield int(path.parent.name)


def parent(process: int) -> int:
    """Return the process that started a process."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
