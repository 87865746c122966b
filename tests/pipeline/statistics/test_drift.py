"""The comparison with the reference: it notices shifts, and chance does not alarm."""

import random
from dataclasses import replace
from datetime import timedelta

import pytest

from model.evaluate.card import shipped_card
from pipeline.statistics.daily import PROPERTIES
from pipeline.statistics.drift import LEAST, DriftReference, compare
from pipeline.statistics.reader import Statistics
from pipeline.worklist.sqlite import SqliteIndex
from tests.pipeline.statistics.test_daily import DONE, NOON, TODAY

CARD = shipped_card()
assert CARD.reference
REFERENCE = CARD.reference
DAY = timedelta(days=1)


def drawn(name: str, count: int, chance: random.Random, shift: int = 0) -> list[int]:
    """Draw values from the reference itself, moved by some bins."""
    expected = REFERENCE.histograms[name]  # type: ignore[index]
    found = [0] * len(expected)
    for number in chance.choices(range(len(expected)), expected, k=count):
        found[min(max(number + shift, 0), len(expected) - 1)] += 1
    return found


def test_the_reference_is_that_of_the_shipped_network() -> None:
    assert REFERENCE.sha256 == CARD.sha256
    assert {name: len(bins) for name, bins in REFERENCE.histograms.items()} == {
        one.name: one.bins for one in PROPERTIES
    }
    assert all(150 < sum(bins) <= REFERENCE.images for bins in REFERENCE.histograms.values())


@pytest.mark.parametrize("one", PROPERTIES, ids=lambda one: one.name)
@pytest.mark.parametrize("count", [LEAST, 400])
def test_chance_hardly_ever_alarms(one: object, count: int) -> None:
    name, chance = one.name, random.Random(count)  # type: ignore[attr-defined]
    levels = [compare(REFERENCE, name, drawn(name, count, chance), 7).level for _ in range(100)]
    assert levels.count("shift") == 0
    assert levels.count("some") <= 1


@pytest.mark.parametrize("one", PROPERTIES, ids=lambda one: one.name)
def test_a_shift_by_a_standard_deviation_is_noticed(one: object) -> None:
    name, chance = one.name, random.Random(3)  # type: ignore[attr-defined]
    expected = REFERENCE.histograms[name]
    mean = sum(number * count for number, count in enumerate(expected)) / sum(expected)
    spread = sum(count * (number - mean) ** 2 for number, count in enumerate(expected)) / sum(expected)
    moved = drawn(name, 200, chance, -round(spread**0.5))
    assert compare(REFERENCE, name, moved, 7).level == "shift"


def test_the_index_is_that_of_the_formula() -> None:
    histograms = {"brightness": [50_000_000, 50_000_000]}
    known = DriftReference(sha256="", of="", images=10**8, patients=10**8, histograms=histograms)
    found = compare(known, "brightness", [60_000_000, 40_000_000], 7)
    assert found.psi == pytest.approx(0.2 * 0.405465 / 2 * 2 / 2, abs=1e-3)  # 0.1 ln 1.2 - 0.1 ln 0.8
    assert compare(known, "brightness", [0, 10**8], 7).level == "shift"


def test_too_few_are_not_compared_nor_other_bins() -> None:
    assert compare(REFERENCE, "brightness", [LEAST - 1, *[0] * 31], 7).level == "few"
    assert compare(REFERENCE, "brightness", [1000], 7).level == "few"
    empty = DriftReference(sha256="", of="", images=0, patients=0, histograms={})
    assert compare(empty, "brightness", [1000] * 32, 7).psi is None


def fill(index: SqliteIndex, day_ago: int, count: int, shift: float = 0, seed: int = 0) -> None:
    """Write rows of one day, with brightnesses drawn from the reference."""
    chance = random.Random(seed + day_ago)
    bins = REFERENCE.histograms["brightness"]
    for number, found in enumerate(chance.choices(range(len(bins)), bins, k=count)):
        row = replace(DONE, key=f"inbox/{day_ago}/{number}", finished_at=NOON - day_ago * DAY)
        value = min(max(8.0 * found + 4 + shift, 0), 255)
        index.put(
            replace(row, brightness=value, typicality=None, aspect=None, contrast=None, probability=None)
        )


def test_since_when_the_xrays_are_unlike(index: SqliteIndex) -> None:
    statistics = Statistics(index, REFERENCE)
    for back in range(40, 4, -1):
        fill(index, back, 30)
    report = statistics.drift(TODAY - 5 * DAY)
    assert report
    assert (report.since, report.shifted) == (None, [])
    for back in range(4, -1, -1):
        fill(index, back, 30, shift=48)
    report = statistics.drift(TODAY)
    assert report
    assert report.shifted == ["brightness"]
    assert report.since
    assert TODAY - 4 * DAY <= report.since <= TODAY - 2 * DAY
    assert not report.is_older
    fell = {one.name: one for one in report.short}["brightness"]
    assert fell.count == 7 * 30
    assert sum(group.actual for group in fell.groups) == pytest.approx(1)


def test_a_mended_machine_ends_the_alarm_within_a_week(index: SqliteIndex) -> None:
    for back in range(40, 7, -1):
        fill(index, back, 30, shift=48)
    for back in range(7, -1, -1):
        fill(index, back, 30)
    statistics = Statistics(index, REFERENCE)
    report, before = statistics.drift(TODAY), statistics.drift(TODAY - 8 * DAY)
    assert report
    assert before
    assert report.since is None
    assert before.is_older


def test_a_small_department_is_judged_by_its_month(index: SqliteIndex) -> None:
    for back in range(29, -1, -1):
        fill(index, back, 5, shift=64)
    report = Statistics(index, REFERENCE).drift(TODAY)
    assert report
    assert ({one.level for one in report.short}, report.shifted) == ({"few"}, ["brightness"])


def test_another_networks_typicality_is_not_compared(index: SqliteIndex) -> None:
    for number in range(2 * LEAST):
        index.put(replace(DONE, key=f"inbox/{number}", typicality=1.5))
    report = Statistics(index, REFERENCE).drift(TODAY)
    assert report
    levels = {one.name: one.level for one in report.short}
    assert (levels["typicality"], levels["evidence"], levels["brightness"]) == ("few", "few", "shift")
    assert Statistics(index).drift(TODAY) is None
