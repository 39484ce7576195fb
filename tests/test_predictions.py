import json
import logging
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from traceback import format_exception
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from postgres import PASSWORD, Postgres, postgres_server
from prediction_writer import WINE, new_predictions
from servers import running, wait_until
from sqlalchemy import make_url

from wine_quality import disk_queue
from wine_quality.errors import PredictionsError, SettingsError
from wine_quality.predictions import Database, Prediction, PredictionStore, count, load
from wine_quality.schema import FEATURES

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
WRITER = str(Path(__file__).with_name("prediction_writer.py"))
MICROSECOND = timedelta(microseconds=1)
Open = Callable[[str], PredictionStore]


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    return postgres.new_database(f"test-{uuid4()}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "queue"


@pytest.fixture
def open_store(folder: Path) -> Iterator[Open]:
    """A function that opens the queue for a database, flushes often, and is closed after the test."""
    stores = []

    def open_store(url: str) -> PredictionStore:
        stores.append(PredictionStore(folder, url, flush_seconds=0.02, max_wait=0.1))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def away(tmp_path: Path) -> str:
    """The address of a database that cannot be opened until somebody makes its folder."""
    return f"sqlite:///{tmp_path}/missing/predictions.db"


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Hold the database of SQLite, or the table of PostgreSQL, so that nobody else can read or write."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///").partition("?")[0])
        connection.execute("BEGIN EXCLUSIVE")
    else:
        connection = psycopg.connect(url)
        connection.execute("LOCK TABLE predictions")
    yield
    connection.close()


def arrived(url: str, predictions: list[Prediction]) -> None:
    """Return once these predictions, no others, are in the database; none can be there twice, as ids are the key."""
    own_timeout = make_url(url).difference_update_query(["timeout"])  # SQLite's 5 s, because the store may be writing
    patient = own_timeout.render_as_string(hide_password=False)
    wait_until(lambda: count(patient) >= len(predictions), "predictions in the database")
    assert set(load(patient)["id"]) == {prediction.id for prediction in predictions}


def arrived_by(open_store: Open, url: str, predictions: list[Prediction]) -> None:
    open_store(url).close()
    arrived(url, predictions)


def left_in_queue(open_store: Open, url: str, predictions: list[Prediction]) -> None:
    """Add predictions to the queue of a database that is away, and close it."""
    store = open_store(url)
    assert store.add(predictions)
    store.close()
    assert not store.thread.is_alive()


def waiting(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl")))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "wine_quality.predictions"]


def test_a_prediction_is_stored_with_its_inputs_score_version_and_time(open_store, url):
    wine = {"type": "white", **{name: float(number) for number, name in enumerate(FEATURES[1:])}}
    predictions = [Prediction("an-id", NOON, "3", wine, 5.25, 4.5, 6.125)]
    assert open_store(url).add(predictions)
    arrived(url, predictions)
    (row,) = load(url).to_dict("records")
    assert row == {"id": "an-id", "time": NOON, "version": "3", **wine, "score": 5.25, "low": 4.5, "high": 6.125}


def test_times_are_utc_and_those_before_since_are_left_out(open_store, url):
    later = NOON.astimezone(timezone(timedelta(hours=-5))) + MICROSECOND
    predictions = [Prediction("second", later, "3", WINE, 5.0), Prediction("first", NOON, "3", WINE, 6.0)]
    assert open_store(url).add(predictions)
    arrived(url, predictions)
    assert list(load(url)["id"]) == ["first", "second"]
    assert str(load(url)["time"].dtype) == "datetime64[us, UTC]"
    assert list(load(url)["time"]) == [NOON, NOON + MICROSECOND]
    assert list(load(url, since=later)["id"]) == ["second"]
    assert load(url, since=later + MICROSECOND).empty
    assert [count(url), count(url, later), count(url, later + MICROSECOND)] == [2, 1, 0]


def test_before_the_first_prediction_the_table_has_its_columns_and_no_row(url):
    empty = load(url)
    assert list(empty.columns) == ["id", "time", "version", *FEATURES, "score", "low", "high"]
    assert (len(empty), count(url)) == (0, 0)
    assert str(empty["time"].dtype) == "datetime64[us, UTC]"


def drop_intervals(url: str) -> None:
    with Database(url).engine.begin() as connection:
        for name in ("low", "high"):
            connection.exec_driver_sql(f"ALTER TABLE predictions DROP COLUMN {name}")


def test_a_table_from_before_the_intervals_gets_their_columns_and_keeps_its_rows(open_store, url):
    predictions = [Prediction("before", NOON, "1", WINE, 5.0)]
    assert open_store(url).add(predictions)
    arrived(url, predictions)
    drop_intervals(url)
    assert load(url)[["low", "high"]].isna().all(axis=None)
    drop_intervals(url)
    after = [Prediction("after", NOON + MICROSECOND, "2", WINE, 5.0, 4.0, 6.0)]
    assert open_store(url).add(after)
    arrived(url, predictions + after)
    assert load(url)["low"].tolist() == pytest.approx([np.nan, 4.0], nan_ok=True)


def test_missing_values_are_null_in_the_queue_and_nan_in_the_table(open_store, away, url, folder):
    wine = WINE | {"type": None, "pH": float("nan"), "alcohol": np.float64("nan"), "density": np.float64(0.99)}
    blank = Prediction("blank", NOON, "3", wine, np.float64(5.5))
    left_in_queue(open_store, away, [blank])
    (line,) = waiting(folder).splitlines()
    queued = json.loads(line, parse_constant=pytest.fail)["features"]
    assert queued == WINE | {"type": None, "pH": None, "alcohol": None, "density": 0.99}
    open_store(url)
    arrived(url, [blank])
    row = load(url).iloc[0]
    assert row[["type", "pH", "alcohol"]].isna().all()
    assert (row["density"], row["sulphates"], row["score"]) == (0.99, 5.25, 5.5)


def test_a_line_that_is_inserted_twice_is_one_prediction_and_a_partial_one_none(
    open_store, away, url, folder, tmp_path
):
    predictions = new_predictions(3)
    left_in_queue(open_store, away, predictions)
    (segment,) = folder.iterdir()
    segment.write_bytes(segment.read_bytes() + b'{"id":"partial","time":')
    shutil.copytree(folder, tmp_path / "again")
    arrived_by(open_store, url, predictions)
    shutil.copytree(tmp_path / "again", folder, dirs_exist_ok=True)
    arrived_by(open_store, url, predictions)
    assert not list(folder.iterdir())


def test_a_database_that_is_away_at_the_start_gets_everything_once_it_is_there(
    open_store, away, tmp_path, folder, caplog
):
    predictions, store = new_predictions(2), open_store(away)
    assert store.add(predictions[:1])
    wait_until(lambda: store.outage.error, "the warning")
    assert store.add(predictions[1:])
    (tmp_path / "missing").mkdir()
    arrived(away, predictions)
    wait_until(lambda: not store.outage.error, "the end of the outage")
    begin, end = warned(caplog)
    assert begin.startswith(f"{away}: predictions wait in {folder} (unable to open database file")
    assert end == f"{away}: works again"


@pytest.mark.slow
def test_while_the_database_is_locked_predictions_wait_and_they_arrive_after_it(open_store, url, folder, caplog):
    predictions, store = new_predictions(3), open_store(url)
    store.add(predictions[:1])
    arrived(url, predictions[:1])
    with locked(url):
        assert store.add(predictions[1:2])
        wait_until(lambda: store.outage.error, "the warning")
        assert store.add(predictions[2:])
        assert len(waiting(folder).splitlines()) == 2
    arrived(url, predictions)
    wait_until(lambda: not store.outage.error, "the end of the outage")
    assert [line.rpartition(":")[2] for line in warned(caplog)[1:]] == [" works again"]


def test_while_the_database_is_away_there_are_few_segments(open_store, away, folder):
    store = open_store(away)
    for number in range(50):
        store.add(new_predictions(1))
        wait_until(lambda: store.queue.bytes, "the queue")
        if number == 0:
            wait_until(lambda: store.outage.error, "the warning")
        store.flush()
    assert len(list(folder.iterdir())) == 2


def test_a_segment_that_a_living_process_holds_is_left_to_it(open_store, url, folder):
    other = disk_queue.DiskQueue(folder)
    other.add(b"a line that is not finished")
    predictions = new_predictions(1)
    assert open_store(url).add(predictions)
    arrived(url, predictions)
    wait_until(lambda: waiting(folder) == b"a line that is not finished", "the end of the other segment")
    other.release()


def test_a_segment_with_a_broken_line_is_set_aside_and_those_after_it_arrive(open_store, url, folder, caplog):
    folder.mkdir()
    (folder / "0.jsonl").write_bytes(b"scribble\n")
    predictions = new_predictions(1)
    open_store(url).add(predictions)
    arrived(url, predictions)
    wait_until(lambda: [path.name for path in folder.iterdir()] == ["0.refused"], "the end of the other segment")
    line = warned(caplog)[0]
    assert line.startswith(f"{folder}/0.refused: set aside (1 validation error for Prediction Invalid JSON")
    assert line.endswith("Fix its lines and name it 0.jsonl.")


def test_a_segment_that_the_database_refuses_is_set_aside_and_those_after_it_arrive(open_store, postgres_url, folder):
    predictions, store = new_predictions(1), open_store(postgres_url)
    store.add([Prediction("refused", NOON, "no text of PostgreSQL: \0", WINE, 5.0)])
    wait_until(lambda: list(folder.glob("*.refused")), "the segment")
    store.add(predictions)
    arrived(postgres_url, predictions)


def test_closing_flushes_what_waits(open_store, url, folder):
    predictions, store = new_predictions(2), open_store(url)
    store.add(predictions)
    store.close()
    assert count(url) == 2
    arrived(url, predictions)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        "corked",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file.db?timeout=corked",
        "oracle://wine:corked@host/wine",
        "nonsense://wine:corked@host/wine",
        "postgresql+asyncpg://wine:corked@host/wine",
        "postgresql://wine:corked",
        "postgresql://wine:half@corked@host/wine",
    ],
)
def test_an_address_that_cannot_be_used_is_shown_without_its_password(folder, url):
    with pytest.raises(SettingsError, match=r"^WINE_PREDICTIONS: not the address of a database") as caught:
        PredictionStore(folder, url)
    assert "corked" not in "".join(format_exception(caught.value))
    assert not folder.exists()


def test_a_password_is_in_no_line_error_or_repr(open_store, postgres_url, caplog):
    caplog.set_level(logging.DEBUG)
    wrong = postgres_url.replace(PASSWORD, f"wrong-{PASSWORD}")
    store = open_store(wrong)
    store.add(new_predictions(1))
    wait_until(lambda: store.outage.error, "the warning")
    with pytest.raises(PredictionsError, match="password authentication failed") as caught:
        load(wrong)
    assert "password authentication failed" in caplog.text
    for text in (caplog.text, str(caught.value), repr(store), repr(vars(store)), repr(vars(store.database))):
        assert PASSWORD not in text


def test_a_database_that_is_away_cannot_be_read(away):
    with pytest.raises(PredictionsError, match=r"cannot be read \(unable to open database file\)\. Start it, or fix"):
        load(away)


@pytest.fixture
def server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


def drain(open_store: Open, folder: Path, url: str) -> None:
    with closing(open_store(url)):
        wait_until(lambda: not list(folder.glob("*.jsonl")), "an empty queue")


def acknowledged_ids(log: Path) -> list[str]:
    """Return the ids that a writer printed whole; between them stand its warnings of a locked database."""
    return re.findall(r"^[0-9a-f-]{36}(?=\n)", log.read_text(), re.MULTILINE)


@pytest.mark.slow
def test_what_a_killed_process_acknowledged_is_in_the_database_exactly_once(open_store, url, folder, tmp_path):
    acknowledged = []
    for kill in range(3):
        log = tmp_path / f"acknowledged-{kill}"
        with running([WRITER, str(folder)], log, WINE_PREDICTIONS=url) as process:
            wait_until(lambda log=log: log.stat().st_size > 40_000, "the first thousand")
            process.kill()
        acknowledged += acknowledged_ids(log)
    drain(open_store, folder, url)
    assert len(acknowledged) > 3000
    assert set(acknowledged) <= set(load(url)["id"])
    assert load(url)["id"].is_unique


@pytest.mark.slow
def test_two_processes_share_a_queue_and_a_database(open_store, url, folder, tmp_path):
    logs, command = [tmp_path / "one", tmp_path / "two"], [WRITER, str(folder), "1000"]
    with (
        running(command, logs[0], WINE_PREDICTIONS=url) as one,
        running(command, logs[1], WINE_PREDICTIONS=url) as two,
    ):
        assert (one.wait(timeout=60), two.wait(timeout=60)) == (0, 0)
    drain(open_store, folder, url)
    acknowledged = [line for log in logs for line in acknowledged_ids(log)]
    assert len(acknowledged) == 2 * 1999
    assert sorted(load(url)["id"]) == sorted(acknowledged)
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_a_server_that_is_stopped_and_started_again_gets_everything(server, open_store):
    predictions, store = new_predictions(3), open_store(server.url())
    assert store.add(predictions[:1])
    arrived(server.url(), predictions[:1])
    server.stop()
    assert store.add(predictions[1:2])
    wait_until(lambda: store.outage.error, "the warning")
    assert store.add(predictions[2:])
    server.start()
    arrived(server.url(), predictions)


@pytest.mark.slow
def test_a_server_that_is_silent_is_not_waited_for(server, open_store):
    predictions, store = new_predictions(3), open_store(server.url())
    server.process.send_signal(signal.SIGSTOP)
    assert store.add(predictions[:2])
    wait_until(lambda: store.outage.error, "the warning")
    assert store.add(predictions[2:])
    server.process.send_signal(signal.SIGCONT)
    arrived(server.url(), predictions)
