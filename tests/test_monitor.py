"""Monitoring runs on a small store of their own: what they measure, publish and store, even when a service is down."""

import logging
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import orjson
import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from servers import artifact_keys
from versions import artifacts, project_store

from monitoring import alerts, monitor
from monitoring.records import Record, load_records
from monitoring.reference import load_reference
from orchestration.train import train_wine_quality
from wine_quality import labels, registry, sources
from wine_quality.config import Settings, settings
from wine_quality.errors import RegistryError
from wine_quality.ports import free_port
from wine_quality.predictions import Database, Prediction
from wine_quality.schema import FEATURES
from wine_quality.splits import distinct_rows

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("monitored")


@pytest.fixture(autouse=True)
def config(home, few_wines, prefect_for_commands, monkeypatch) -> Settings:
    """The settings of a home with a champion trained on few rows, no records and no service."""
    monkeypatch.setenv("WINE_DATA", str(few_wines))
    monkeypatch.setenv("WINE_HOME", str(home))
    monkeypatch.setenv("WINE_SERVE_PORT", str(free_port()))
    monkeypatch.setenv("WINE_PREDICTIONS", f"sqlite:///{home}/{uuid4()}.db")
    if not (home / "mlflow.db").exists():
        train_wine_quality(max_evals=1)
    for path in settings().reports.glob("*"):
        path.unlink()
    return settings()


@pytest.fixture(scope="module")
def wines() -> pd.DataFrame:
    """The rows of the sample, in random order."""
    return distinct_rows(sources.sample("a test").table).dropna().sample(frac=1, random_state=1)


@pytest.fixture(scope="module")
def whites(wines) -> pd.DataFrame:
    """Rows that differ from the reference."""
    return wines[wines["type"] == "white"][:60]


def store_predictions(config: Settings, wines: pd.DataFrame, score: float | None = 5.8) -> list[str]:
    """Store predictions for some rows in the database, and return their ids."""
    rows = [Prediction(str(uuid4()), NOW, "1", wine, score) for wine in wines[FEATURES].to_dict("records")]
    Database(config.predictions_uri).insert([orjson.dumps(row) for row in rows])
    return [row.id for row in rows]


def run_flow(name: str) -> tuple[Record, set[str]]:
    """Monitor the last hour; return the record and the keys of the artifacts."""
    state = monitor.monitor_wine_quality(NOW - timedelta(hours=1), NOW + timedelta(hours=1), name, return_state=True)
    assert state.is_completed(), state
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
    assert run.name == name
    return state.result(), artifact_keys(run)


def test_a_calm_week_has_a_report_and_no_alert_even_if_the_service_is_down(config, wines, caplog):
    store_predictions(config, wines[:60])
    record, keys = run_flow("calm")
    assert (record.alerts, record.trigger, record.notify) == ([], "", False)
    assert (record.result.predictions, record.result.version) == (60, "1")
    assert keys == {"monitoring-report", "drift"}
    assert load_records(config) == [record]
    assert not list(config.reports.glob("*.html"))
    assert record.result.requests is None
    assert monitor.SERVICE_DOWN in caplog.text
    assert monitor.SERVICE_DOWN in monitor.report(record)


def test_drift_has_an_alert_and_an_evidently_page_and_is_notified_once(config, whites, caplog):
    store_predictions(config, whites)
    record, keys = run_flow("all white")
    assert [alert.kind for alert in record.alerts] == ["drift"]
    assert "type" in record.result.drifted
    assert keys == {"monitoring-report", "drift", "alert"}
    assert (config.reports / "all-white.html").is_file()
    assert "drift" in [line.split()[0] for line in caplog.messages if line]
    assert record.notify
    again, _ = run_flow("white again")
    assert again.alerts
    assert not again.notify, "the same alert is not sent twice"


def test_a_second_run_in_a_week_is_kept_beside_the_first_and_repeats_no_alert(config, whites):
    store_predictions(config, whites)
    since, until = (moment.replace(tzinfo=None) for moment in (NOW - timedelta(hours=1), NOW + timedelta(hours=1)))
    first, second, third = (monitor.monitor_wine_quality(since, until) for _ in range(3))
    week = first.result.name
    assert {record.result.name for record in load_records(config)} == {week, f"{week} run 2", f"{week} run 3"}
    assert [bool(record.alerts) for record in (first, second, third)] == [True] * 3
    assert [record.notify for record in (first, second, third)] == [True, False, False]
    assert second.until.tzinfo is not None


def test_a_higher_error_with_enough_labels_requests_a_retraining_on_all_rows(config, wines):
    before = len(load_reference(config).table)
    some = wines[: before // 2]
    labels.add(config.predictions_uri, dict.fromkeys(store_predictions(config, some, score=9.0), 4))
    record, _ = run_flow("lost")
    assert record.trigger == "quality"
    table = sources.load_dataset(settings(data=record.training_data)).table
    assert len(table) == record.rows >= before
    merged = table.merge(some[FEATURES], on=FEATURES)
    assert len(merged) == len(some)
    assert (merged["quality"] == 4).all(), "the newest label counts"


def test_a_measurement_without_values_is_an_alert_and_the_other_columns_are_tested(config, whites):
    store_predictions(config, whites.assign(sulphates=None))
    record, keys = run_flow("null")
    assert str(record.alerts[0]) == "missing data: sulphates: measured in 0 of 60 rows"
    assert [alert.kind for alert in record.alerts] == ["missing data", "drift"]
    assert "type" in record.result.drifted
    assert keys == {"monitoring-report", "drift", "alert"}
    assert "| missing data | sulphates: measured in 0 of 60 rows |" in monitor.report(record)
    assert load_records(config) == [record]


def test_rows_without_a_score_are_tested_on_their_measurements(config, wines):
    labels.add(config.predictions_uri, dict.fromkeys(store_predictions(config, wines[:60], score=None), 6))
    record, _ = run_flow("no scores")
    assert record.result.missing == ["score: measured in 0 of 60 rows"]
    assert record.result.quality is None
    assert load_records(config) == [record]


def test_the_reference_needs_no_bucket_and_missing_rows_are_an_error(config, wines, set_aws):
    shutil.rmtree(config.local / "reference", ignore_errors=True)
    set_aws(f"http://127.0.0.1:{free_port()}")
    store_predictions(config, wines[:60])
    assert run_flow("moved")[0].result.predictions == 60
    with project_store(config) as store:
        rows = artifacts(registry.champion(store)) / "rows.csv"
    shutil.rmtree(config.local / "reference")
    aside = rows.rename(rows.with_suffix(".aside"))
    try:
        with pytest.raises(RegistryError, match=r"version 1 has no rows\.csv in MLflow\. Train again"):
            load_reference(config)
    finally:
        aside.rename(rows)


def test_too_few_predictions_are_not_tested(config, wines):
    store_predictions(config, wines[:9])
    record, keys = run_flow("few")
    assert record.result.drift_share is None
    assert "too few predictions to test" in monitor.report(record)
    assert keys == {"monitoring-report"}


def test_a_webhook_that_never_answers_is_logged_and_the_run_completes(config, whites, monkeypatch, caplog):
    monkeypatch.setattr(alerts, "TIMEOUT", 0.2)
    monkeypatch.setattr(monitor, "send_webhook", alerts.send_webhook.with_options(retries=1, retry_delay_seconds=0))
    store_predictions(config, whites)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WINE_WEBHOOK", f"http://127.0.0.1:{silent.getsockname()[1]}/a-secret-path")
        record, keys = run_flow("unheard")
    assert record.notify
    assert "alert" in keys
    assert load_records(config) == [record]
    errors = [entry.message for entry in caplog.records if entry.levelno == logging.ERROR]
    assert any("the webhook didn't answer" in message for message in errors)
    assert "a-secret-path" not in caplog.text


def test_without_a_champion_an_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("WINE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it when a store is chosen
    with pytest.raises(RegistryError, match="has no champion to monitor"):
        monitor.monitor_wine_quality(name="nobody")
