"""The daily counts follow every change of the worklist, and a rebuilt worklist has the same ones."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.events import sqs_event
from pipeline.intake import record, row_of
from pipeline.names import verdict_key
from pipeline.records import Job, Reviewed, Row
from pipeline.statistics.daily import PROPERTIES, counted, names, values_of
from pipeline.statistics.reader import Statistics, total
from pipeline.verdict import Release, Source, Typicality, Verdict
from pipeline.worklist.sqlite import SqliteIndex
from tests.support.fakes import FakeEngine, MemoryStore, make_judge, make_ports

NOON = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
TODAY = NOON.date()
DONE = Row(
    "inbox/a.jpeg",
    "classified",
    "pneumonia",
    *(0.9, 0.2, 0.8),
    verdict_key="outbox/a.jpeg.json",
    verdict_etag="v1",
    started_at=NOON,
    finished_at=NOON,
    model="f" * 64,
    typicality=0.52,
    aspect=1.21,
    brightness=120.0,
    contrast=55.0,
)


def random_row(chance: random.Random) -> Row:
    moment = NOON - timedelta(hours=chance.randrange(24 * 400))
    key = f"inbox/{chance.randrange(20)}.jpeg"
    row = replace(DONE, key=key, verdict_key=f"outbox/{key[6:]}.json", started_at=moment, finished_at=moment)
    if chance.random() < 0.3:
        return replace(row, status="rejected", label=None, probability=None, reason="unreadable", model=None)
    warnings = chance.choice([(), ("atypical",), ("age_unknown", "burned_in_text")])
    label = "uncertain" if "atypical" in warnings else chance.choice(["pneumonia", "normal"])
    return replace(row, label=label, probability=round(chance.random(), 4), warnings=warnings)  # type: ignore[arg-type]


def kept(index: SqliteIndex) -> dict[tuple[str, str], int]:
    query = "SELECT what, day, count FROM daily WHERE count <> 0"
    return {(what, day): count for what, day, count in index.select(query)}


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_the_rows_whatever_happened_to_them(
    index: SqliteIndex, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(300):
        row = random_row(chance)
        match chance.randrange(9):
            case 0:
                index.drop(row.key)
            case 1:
                index.remove(row.verdict_key or "")
            case 2:
                index.wait([row.key], NOON)
            case 3:
                index.settle(row.key, NOON)
            case 4:
                index.put(row)
            case 5:
                index.mark(row.key, chance.choice(["present", "deleted"]))
            case 6:
                state = chance.choice(["agreed", "disagreed", "mixed"])
                index.review(row.key, Reviewed(chance.choice([row.verdict_etag, "other"]), state))  # type: ignore[arg-type]
            case _:
                index.record(row)
    again = SqliteIndex(tmp_path / "again.sqlite")
    for row in index.all():
        again.put(row)
    assert kept(index) == kept(again)
    assert all(count > 0 for count in kept(index).values())
    verdicts = [row for row in index.all() if row.status]
    assert sum(n for (what, _), n in kept(index).items() if what.startswith("answer ")) == len(verdicts)


def test_a_period_adds_up_what_its_days_hold(index: SqliteIndex) -> None:
    index.record(DONE)
    day = timedelta(days=1)
    atypical = {"label": "uncertain", "warnings": ("atypical",), "probability": 0.99}
    index.record(replace(DONE, key="inbox/b", finished_at=NOON - 29 * day, **atypical))
    index.record(replace(DONE, key="inbox/c", finished_at=NOON - 30 * day))
    refused = replace(DONE, key="inbox/d", status="rejected", label=None, probability=None, reason="empty")
    index.record(replace(refused, finished_at=NOON - day))
    statistics = Statistics(index)
    spans = statistics.over("30d", TODAY)
    assert (len(spans), spans[0].begins, spans[-1].begins) == (30, TODAY - 29 * day, TODAY)
    assert [span.verdicts for span in spans if span.verdicts] == [1, 1, 1]
    whole = total(spans)
    assert whole.group("answer") == {"pneumonia": 1, "rejected": 1, "uncertain": 1}
    assert (whole.uncertain, whole.no_call, whole.mean_probability) == (0.5, 0.5, 0.9)
    assert (whole.group("reason"), whole.group("warning")) == ({"empty": 1}, {"atypical": 1})
    months = statistics.over("12m", TODAY)
    assert (len(months), months[0].begins.isoformat()) == (12, "2025-12-01")
    assert [span.verdicts for span in months[-2:]] == [2, 2]
    assert (spans[1].uncertain, spans[1].mean_probability) == (None, None)


def test_evidence_does_not_change_with_the_prevalence(index: SqliteIndex) -> None:
    def moved(p: float) -> float:
        odds = p / (1 - p) / 10
        return odds / (1 + odds)

    there = replace(DONE, probability=moved(0.9), normal_below=moved(0.2), pneumonia_above=moved(0.8))
    assert values_of(there)["evidence"] == pytest.approx(values_of(DONE)["evidence"])
    assert "evidence" not in values_of(replace(DONE, warnings=("other_population",)))


def test_every_name_that_is_counted_can_be_read() -> None:
    chance = random.Random(1)
    known = set(names()) | {what for one in PROPERTIES for what in one.counted_as("f" * 64)}
    for _ in range(200):
        row = random_row(chance)
        said = counted(replace(row, aspect=chance.choice([None, 0.0, 1e15])))
        assert said
        assert set(json.loads(said)) <= known


def test_every_query_uses_the_key_of_the_table(index: SqliteIndex) -> None:
    for grouped in ("what", "what, substr(day, 1, 7)"):
        query = "SELECT what, sum(count) FROM daily WHERE what IN (?, ?) AND day BETWEEN ? AND ? GROUP BY "
        plan = index.select(f"EXPLAIN QUERY PLAN {query}{grouped}", *"abcd")
        assert any("SEARCH daily USING PRIMARY KEY (what=? AND day>? AND day<?)" in line[3] for line in plan)


def test_record_counts_verdicts_without_a_call_for_the_alarm(tmp_path: Path) -> None:
    store, figures = MemoryStore(), []
    ports = replace(make_ports(tmp_path, store), count=lambda name, value: figures.append((name, value)))
    for name, data in {"a": b"P", "b": b"N not_frontal", "c": b"bad"}.items():
        store.put(f"inbox/{name}", data, None)
        make_judge(store).judge(Job(f"inbox/{name}"))
        record(sqs_event("bucket", [Job(verdict_key(f"inbox/{name}"))]), ports)
    assert figures == [("NoCall", 0), ("NoCall", 1)]


def test_the_verdicts_properties_are_in_its_row() -> None:
    source = Source(
        bucket="", key="inbox/a", etag="e", size=1, width=300, height=200, brightness=9.5, contrast=2
    )
    typicality = Typicality(score=620, atypical_above=1240, refused_above=2000)
    engine = FakeEngine()
    finding = engine.examine(b"P").finding.model_copy(update={"typicality": typicality})
    moments = {"release": Release(), "started_at": NOON, "finished_at": NOON}
    verdict = Verdict(status="classified", source=source, finding=finding, model=engine.model, **moments)
    row = row_of(verdict, "outbox/a.json", "v")
    assert (row.typicality, row.aspect, row.brightness, row.contrast) == (0.5, 1.5, 9.5, 2)
    assert row.model == engine.model.sha256
    for score, limit in ((1e308, 1e-308), (-5.0, 1.0), (1.0, 0.0)):
        planted = typicality.model_copy(update={"score": score, "atypical_above": limit})
        changed = finding.model_copy(update={"typicality": planted})
        odd = row_of(verdict.model_copy(update={"finding": changed}), "outbox/a.json", "v")
        assert odd.typicality in (100, 0, None)
        assert counted(odd)
