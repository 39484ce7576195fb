"""The watch on a small store of its own: what a look finds, leaves and keeps, whoever is away."""

import logging
import shutil
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import orjson
import pandas as pd
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas import FlowRun
from prefect.settings import PREFECT_API_URL
from servers import artifact_keys, prefect_server
from versions import artifacts

from monitoring import alerts, records
from monitoring import monitor as watch
from monitoring.records import Record
from orchestration.train import train_wine_quality
from wine_quality import data, labels, registry, tracking
from wine_quality.config import Settings, settings
from wine_quality.errors import RegistryError, StorageError
from wine_quality.ports import free_port
from wine_quality.predictions import Database, Prediction
from wine_quality.schema import FEATURES
from wine_quality.splits import distinct_wines

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module", autouse=True)
def prefect(home) -> Iterator[int]:
    with prefect_server(home / "prefect") as port:
        yield port


@pytest.fixture
def config(home, few_wines, monkeypatch) -> Settings:
    """The settings of a home with a champion of few wines, with no look yet and no service."""
    monkeypatch.setenv("WINE_DATA", str(few_wines))
    monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())
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
    """Wines of the sample, in random order."""
    return distinct_wines(data.sample("a test").table).dropna().sample(frac=1, random_state=1)


def scored(config: Settings, wines: pd.DataFrame, score: float | None = 5.8, version: str = "1") -> list[str]:
    """Put predictions of wines into the database, and return their ids."""
    made = [Prediction(str(uuid4()), NOW, version, wine, score) for wine in wines[FEATURES].to_dict("records")]
    Database(config.predictions_uri).insert([orjson.dumps(one) for one in made])
    return [one.id for one in made]


def look(name: str) -> tuple[Record, FlowRun]:
    """Look at the last hour; return the record and the flow run."""
    state = watch.watch_wine(NOW - timedelta(hours=1), NOW + timedelta(hours=1), name, return_state=True)
    assert state.is_completed(), state
    with get_client(sync_client=True) as client:
        return state.result(), client.read_flow_run(state.state_details.flow_run_id)


def test_a_calm_week_leaves_a_report_and_no_alert(config, wines):
    scored(config, wines[:60])
    record, run = look("calm")
    assert (record.findings, record.event, record.news) == ([], "", False)
    assert (record.reading.wines, record.reading.version) == (60, "1")
    assert run.name == "calm"
    assert artifact_keys(run) == {"watch-report", "drift"}
    assert records.records(config) == [record]
    assert not list(config.reports.glob("*.html"))


def test_a_service_that_is_away_is_told_and_stops_nothing(config, wines, caplog):
    scored(config, wines[:60])
    record, _ = look("alone")
    assert record.reading.asked is None
    assert watch.SERVICE_IS_AWAY in caplog.text
    assert watch.SERVICE_IS_AWAY in watch.report(record)


def test_wines_that_are_unlike_are_drift_with_an_alert_and_a_page(config, wines, caplog):
    scored(config, wines[wines["type"] == "white"][:60])
    record, run = look("all white")
    assert [finding.kind for finding in record.findings] == ["drift"]
    assert "type" in record.reading.drifted
    assert {"watch-report", "drift", "alert"} == artifact_keys(run)
    assert (config.reports / "all-white.html").is_file()
    assert "drift" in [line.split()[0] for line in caplog.messages if line]
    assert record.news
    again, _ = look("white again")
    assert again.findings
    assert not again.news, "what is not new is told once"


def test_lost_quality_with_new_labels_asks_for_a_model_on_what_is_known_by_now(config, wines):
    known = len(watch.load_reference(config).wines)
    some = wines[: known // 2]
    ids = scored(config, some, score=9.0)
    labels.add(config.predictions_uri, dict.fromkeys(ids, 4))
    record, _ = look("lost")
    assert record.event == "quality"
    table = data.load_wine(settings(data=record.data)).table
    assert len(table) == record.known >= known
    merged = table.merge(some[FEATURES], on=FEATURES)
    assert len(merged) == len(some)
    assert (merged["quality"] == 4).all(), "what tasters said last goes before what was known"


def test_a_measurement_that_was_null_all_week_is_a_finding_and_the_rest_is_compared(config, wines):
    scored(config, wines[wines["type"] == "white"][:60].assign(sulphates=None))
    record, run = look("null")
    assert str(record.findings[0]) == "missing data: sulphates: measured in 0 of 60 rows"
    assert [finding.kind for finding in record.findings] == ["missing data", "drift"]
    assert "type" in record.reading.drifted
    assert {"watch-report", "drift", "alert"} == artifact_keys(run)
    assert "| missing | sulphates: measured in 0 of 60 rows |" in watch.report(record)
    assert records.records(config) == [record]


def test_predictions_without_a_score_are_compared_by_their_measurements(config, wines):
    labels.add(config.predictions_uri, dict.fromkeys(scored(config, wines[:60], score=None), 6))
    record, _ = look("no scores")
    assert record.reading.missing == ["score: measured in 0 of 60 rows"]
    assert record.reading.quality is None
    assert records.records(config) == [record]


def test_the_champions_rows_are_known_wherever_the_bucket_is(config, wines, set_aws):
    shutil.rmtree(config.local / "reference", ignore_errors=True)
    set_aws(f"http://127.0.0.1:{free_port()}")
    scored(config, wines[:60])
    record, _ = look("moved")
    assert record.reading.wines == 60


def test_rows_that_only_an_earlier_bucket_has_are_named(config, set_aws, moto):
    moto.create_bucket(Bucket=config.bucket)
    with tracking.store(config):
        champion = registry.champion(config)
        rows = artifacts(champion) / "wines.csv"
    shutil.rmtree(config.local / "reference", ignore_errors=True)
    text = rows.read_text()
    rows.unlink()
    try:
        with pytest.raises(StorageError, match=rf"runs/{champion.run_id}/manifest\.json is not there"):
            watch.load_reference(config)
    finally:
        rows.write_text(text)


def test_too_few_wines_tell_nothing(config, wines):
    scored(config, wines[:9])
    record, run = look("few")
    assert record.reading.drift is None
    assert "too few wines to tell" in watch.report(record)
    assert artifact_keys(run) == {"watch-report"}


class Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.server.over.wait(30)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a webhook that takes what it is sent and never answers."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        server.over = threading.Event()
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/a-secret-path"
        server.over.set()
        server.shutdown()


def test_a_webhook_that_never_answers_stops_nothing_and_is_told(config, wines, silent, monkeypatch, caplog):
    monkeypatch.setenv("WINE_WEBHOOK", silent)
    monkeypatch.setattr(alerts, "TIMEOUT", 0.2)
    monkeypatch.setattr(watch, "webhook", alerts.webhook.with_options(retries=1, retry_delay_seconds=0))
    scored(config, wines[wines["type"] == "white"][:60])
    record, run = look("unheard")
    assert record.news
    assert "alert" in artifact_keys(run)
    assert records.records(config) == [record]
    errors = [entry.message for entry in caplog.records if entry.levelno == logging.ERROR]
    assert any("the webhook does not answer" in message for message in errors)
    assert "a-secret-path" not in caplog.text


def test_without_a_champion_one_line_says_what_to_do(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WINE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it when it is told of a store
    with pytest.raises(RegistryError, match="has no champion to watch"):
        watch.watch_wine(name="nobody")
