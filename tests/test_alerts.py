"""Alerts and records. The webhook is a real server on loopback that may fail or be down."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from receiver import Receiver, receiver

from monitoring import alerts
from monitoring.records import Record, RequestCounters, load_records, save_record
from wine_quality.config import settings
from wine_quality.errors import AlertError, DataError
from wine_quality.ports import free_port
from wine_quality.thresholds import Alert, ModelQuality, MonitoringResult

NOON = datetime(2025, 6, 2, 12, tzinfo=UTC)
QUALITY = ModelQuality(150, 0.81, 0.72, 0.9, 0.66)
RESULT = MonitoringResult("week 14", "2", 90, 3, 87, 0.5, ["alcohol (red)", "type"], True, quality=QUALITY)
ALERTS = [Alert("drift", "two columns"), Alert("quality", "an error")]
RETRAINING = (900, "quality", "quality, and 300 more", "/a/folder", True)
RECORD = Record(RESULT, ALERTS, NOON, NOON.replace(hour=13), RequestCounters(1.5, 100, 4), *RETRAINING)


@pytest.fixture
def chat(monkeypatch) -> Iterator[Receiver]:
    with receiver() as server:
        monkeypatch.setenv("WINE_WEBHOOK", server.address)
        yield server


def test_the_webhook_gets_the_alerts_as_text_and_as_data(chat):
    alerts.send_webhook.fn(alerts.payload(RECORD))
    (sent,) = chat.got
    assert sent["text"].splitlines() == [
        "wine-quality, week 14",
        "drift: two columns",
        "quality: an error",
        "Outcome: retraining requested (quality, and 300 more).",
    ]
    assert sent["alerts"] == [{"kind": "drift", "message": "two columns"}, {"kind": "quality", "message": "an error"}]
    assert (sent["name"], sent["version"], sent["trigger"]) == ("week 14", "2", "quality")


def test_a_webhook_that_fails_or_is_down_is_reported_without_its_url(chat, monkeypatch):
    chat.answers = [503]
    with pytest.raises(AlertError) as caught:
        alerts.send_webhook.fn({})
    assert str(caught.value) == "the webhook answered 503. Check WINE_WEBHOOK."
    for address in (f"http://127.0.0.1:{free_port()}/a-secret-path", "not an address"):
        monkeypatch.setenv("WINE_WEBHOOK", address)
        with pytest.raises(AlertError, match="the webhook didn't answer") as caught:
            alerts.send_webhook.fn({})
        assert "secret" not in str(caught.value)


def test_records_are_sorted_by_time_and_replaced_by_name():
    config = settings()
    assert load_records(config) == []
    save_record(config, RECORD)
    assert load_records(config) == [RECORD]
    later = replace(RECORD, until=NOON.replace(hour=20), result=replace(RECORD.result, name="a later one"))
    for record in (later, RECORD, replace(RECORD, rows=1000)):
        save_record(config, record)
    names = [(record.result.name, record.rows) for record in load_records(config)]
    assert names == [("week 14", 1000), ("a later one", 900)]
    (config.reports / "week-15.json").write_text('{"result": 5}')
    with pytest.raises(DataError, match=r"week-15\.json: not a record of a monitoring run\. Delete it"):
        load_records(config)


def test_counts_are_those_since_the_last_run_or_a_restart():
    now = RequestCounters(1.5, 150, 24)
    assert now.since(RequestCounters(1.5, 100, 4)) == RequestCounters(1.5, 50, 20)
    assert now.since(None) == now
    assert now.since(RequestCounters(1.0, 9000, 400)) == now, "the service was restarted"
