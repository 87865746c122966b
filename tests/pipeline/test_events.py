"""Events of every shape, from raw JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import Change, Ignored, in_inbox, in_outbox, parse, s3_event

EVENTS = Path(__file__).parents[2] / "events"


def load(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EVENTS / name).read_bytes())
    return event


def keys(records: list[Change | Ignored]) -> list[str]:
    return [record.key for record in records if isinstance(record, Change)]


def reasons(records: list[Change | Ignored]) -> list[str]:
    return [record.reason for record in records if isinstance(record, Ignored)]


def test_plain_notification() -> None:
    assert parse(load("s3_put.json")) == [Change("inbox/pneumonia-1.jpeg")]


def test_many_records_in_one_event() -> None:
    found = keys(parse(load("s3_many.json")))
    assert len(found) == 8
    assert all((EVENTS / "samples" / Path(key).name).is_file() for key in found)


def test_many_records_in_many_messages() -> None:
    records = parse(load("s3_put_sqs.json"))
    assert keys(records) == [f"inbox/{name}-1.jpeg" for name in ("normal", "pneumonia", "uncertain")]
    assert [record.message_id[-1:] for record in records if record.message_id] == ["1", "1", "2", "3"]
    assert reasons(records) == ["S3's test of the connection"]


def test_eventbridge_keys_are_not_encoded() -> None:
    event = load("s3_put_eventbridge.json")
    assert parse(event) == [Change("inbox/pneumonia-2.jpeg")]
    event["detail"]["object"]["key"] = "inbox/a+b%20c.jpeg"
    assert keys(parse(event)) == ["inbox/a+b%20c.jpeg"]
    assert keys(parse({"Records": [_message(event)]})) == ["inbox/a+b%20c.jpeg"]
    assert parse({**event, "detail-type": "Object Deleted"}) == [Change("inbox/a+b%20c.jpeg", removed=True)]


def test_odd_keys_are_decoded_once() -> None:
    records = in_inbox(parse(load("s3_odd_keys.json")))
    assert keys(records) == ["inbox/odd keys/ward 3 + 4, 100%.jpeg", "inbox/odd keys/Röntgen 胸部 (1).jpeg"]
    assert reasons(records) == ["a folder's marker, not a file", "outside the inbox"]


def test_deletions() -> None:
    assert parse(load("s3_delete.json")) == [Change("inbox/normal-2.jpeg", removed=True)]


def test_the_test_event_is_ignored() -> None:
    assert reasons(parse(load("s3_test_event.json"))) == ["S3's test of the connection"]


def test_only_verdicts_concern_the_outbox() -> None:
    records = in_outbox(parse(s3_event("b", ["outbox/a.json", "outbox/.previews/1/2.jpg", "inbox/a.json"])))
    assert keys(records) == ["outbox/a.json"]


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"Records": None},
        {"Records": [{}]},
        {"Records": ["text"]},
        {"Records": [{"eventSource": "aws:sqs", "messageId": "1", "body": "no json"}]},
        {"Records": [{"eventSource": "aws:sqs", "messageId": "1", "body": "[1]"}]},
        {"Records": [{"eventName": "ObjectTagging:Put", "s3": {"object": {"key": "inbox/a"}}}]},
        {"detail-type": "Object Created", "detail": {}},
        {"detail-type": 1, "detail": None},
    ],
)
def test_what_is_no_event_of_s3_is_ignored_with_a_reason(event: dict[str, Any]) -> None:
    records = parse(event)
    assert not keys(records)
    assert len(reasons(records)) == 1


def test_a_bad_message_does_not_hide_the_good_one() -> None:
    bad = {"eventSource": "aws:sqs", "messageId": "bad", "body": "{"}
    records = parse({"Records": [bad, _message(load("s3_put.json"))]})
    assert keys(records) == ["inbox/pneumonia-1.jpeg"]


_GOOD = {"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "inbox/good"}}}


@pytest.mark.parametrize(
    "bad",
    [
        *(None, 1, "text", [], [1], {}),
        {"eventName": 5, "s3": {"object": {"key": "inbox/a"}}},
        {"eventName": "ObjectCreated:Put", "s3": {"object": {"key": 5}}},
        {"eventName": "ObjectCreated:Put", "s3": {"object": {"key": b"inbox/a"}}},
        {"eventName": "ObjectCreated:Put", "s3": [1]},
        {"eventSource": ["aws:sqs"]},
        {"eventSource": "aws:sqs", "messageId": 5, "body": "{}"},
        {"eventSource": "aws:sqs", "messageId": "m", "body": [_GOOD]},
        {"eventSource": "aws:sqs", "messageId": "m", "body": "[" * 100_000},
        {"eventSource": "aws:sqs", "messageId": "m", "body": "1" * 5000},
        {"eventSource": "aws:sqs", "messageId": "m", "body": '{"Records": {"a": 1}}'},
        {"eventSource": "aws:sqs", "messageId": "m", "body": json.dumps({"Records": [{}]})},
        {
            "eventSource": "aws:sqs",
            "messageId": "m",
            "body": json.dumps({"Records": [{"eventSource": "aws:sqs", "messageId": "n", "body": "{}"}]}),
        },
    ],
)
def test_a_record_of_wrong_types_harms_no_other(bad: Any) -> None:
    records = parse({"Records": [_GOOD, bad, _GOOD]})
    assert keys(records) == ["inbox/good", "inbox/good"]
    assert len(reasons(records)) == 1


def test_a_bad_record_in_a_message_harms_none_beside_it() -> None:
    message = _message({"Records": [_GOOD, {"eventName": 1}, _GOOD]})
    records = parse({"Records": [message, _message(load("s3_put.json"))]})
    assert keys(records) == ["inbox/good", "inbox/good", "inbox/pneumonia-1.jpeg"]
    assert len(reasons(records)) == 1


@pytest.mark.parametrize("since", [1, "yesterday", "0001-01-01T00:00:00+23:00", None])
def test_a_time_that_is_none_leaves_the_key(since: Any) -> None:
    message = {**_message(load("s3_put.json")), "messageAttributes": {"since": {"stringValue": since}}}
    (change,) = parse({"Records": [message]})
    assert isinstance(change, Change)
    assert (change.key, change.since) == ("inbox/pneumonia-1.jpeg", None)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_key_survives_the_encoding_of_s3(name: str) -> None:
    assert keys(parse(s3_event("bucket", ["inbox/" + name]))) == ["inbox/" + name]


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["Records", "s3", "body", "eventSource", "detail-type", "detail", "object", "key", "x"]
                ),
                inner,
            )
        ),
        max_leaves=8,
    )
)
def test_parsing_never_raises(value: Any) -> None:
    parse(value if isinstance(value, dict) else {"Records": [value]})


def _message(event: dict[str, Any]) -> dict[str, Any]:
    return {"eventSource": "aws:sqs", "messageId": "m", "body": json.dumps(event)}
