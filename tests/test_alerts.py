"""Alerts: against a real receiver on loopback, which may be slow, refuse, or not be there."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from receiver import Receiver, receiver

from monitoring import alerts
from monitoring.records import Counters, Record, keep, records
from wine_quality.config import settings
from wine_quality.errors import AlertError, DataError
from wine_quality.ports import free_port
from wine_quality.thresholds import Finding, Quality, Reading

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)
RECORD = Record(
    Reading("week 14", "2", 90, 3, 87, 0.5, ["alcohol", "type"], True, Quality(150, 0.81, 0.72, 0.9, 0.66)),
    [Finding("drift", "two columns"), Finding("quality", "an error")],
    NOON,
    NOON.replace(hour=13),
    Counters(1.5, 100, 4),
    900,
    "quality",
    "quality, and 300 more",
    "/a/folder",
    True,
)


@pytest.fixture
def chat() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def test_a_webhook_gets_the_findings_as_text_and_as_data(chat, monkeypatch):
    monkeypatch.setenv("WINE_WEBHOOK", chat.address)
    alerts.webhook.fn(alerts.message(RECORD))
    (got,) = chat.got
    assert got["text"].splitlines() == [
        "wine-quality, week 14",
        "drift: two columns",
        "quality: an error",
        "What follows: a new model is asked for (quality, and 300 more).",
    ]
    assert got["findings"] == [{"kind": "drift", "line": "two columns"}, {"kind": "quality", "line": "an error"}]
    assert (got["name"], got["version"], got["event"]) == ("week 14", "2", "quality")


def test_a_webhook_that_refuses_is_told_without_its_address(chat, monkeypatch):
    monkeypatch.setenv("WINE_WEBHOOK", chat.address)
    chat.answers = [503]
    with pytest.raises(AlertError) as caught:
        alerts.webhook.fn({})
    assert str(caught.value) == "the webhook answered 503. Mend WINE_WEBHOOK."


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/a-secret-path", "not an address"])
def test_a_webhook_that_is_not_there_is_told_without_its_address(address, monkeypatch):
    monkeypatch.setenv("WINE_WEBHOOK", address.format(port=free_port()))
    with pytest.raises(AlertError, match="the webhook does not answer") as caught:
        alerts.webhook.fn({})
    assert "secret" not in str(caught.value)


def test_a_record_is_read_as_it_was_kept():
    config = settings()
    assert records(config) == []
    keep(config, RECORD)
    assert records(config) == [RECORD]


def test_records_come_oldest_first_and_one_of_the_same_name_is_written_over():
    config = settings()
    later = replace(RECORD, until=NOON.replace(hour=20), reading=replace(RECORD.reading, name="a later one"))
    for record in (later, RECORD, replace(RECORD, known=1000)):
        keep(config, record)
    assert [(record.reading.name, record.known) for record in records(config)] == [
        ("week 14", 1000),
        ("a later one", 900),
    ]


def test_a_record_that_is_spoilt_is_named():
    config = settings()
    keep(config, RECORD)
    (config.reports / "week-15.json").write_text('{"reading": 5}')
    with pytest.raises(DataError, match=r"week-15\.json: not the record of a look"):
        records(config)


def test_counters_are_those_since_the_last_look():
    now = Counters(1.5, 150, 24)
    assert now.since(Counters(1.5, 100, 4)) == Counters(1.5, 50, 20)
    assert now.since(None) == now
    assert now.since(Counters(1.0, 9000, 400)) == now, "the service was started anew"
