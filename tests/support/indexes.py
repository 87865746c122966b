"""Provide a worklist row and the times around it."""

from datetime import UTC, datetime, timedelta

from pipeline.records import Row

KEY = "inbox/a.jpeg"
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
VERDICT = "outbox/a.jpeg.json"
DONE = Row(
    KEY,
    "classified",
    "normal",
    *(0.1, 0.2, 0.8),
    warnings=("atypical",),
    etag="e1",
    verdict_key=VERDICT,
    verdict_etag="v1",
    started_at=LATER,
    finished_at=LATER,
    model="0" * 64,
    typicality=0.8125,
    aspect=1.25,
    brightness=120.5,
    contrast=48.1,
)
