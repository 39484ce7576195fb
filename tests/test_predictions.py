import json
import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from traceback import format_exception
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from postgres import PASSWORD, Postgres
from prediction_writer import WINE, new_predictions
from servers import wait_until

from wine_quality import disk_queue
from wine_quality.errors import PredictionsError, SettingsError
from wine_quality.predictions import Prediction, PredictionStore, count, load
from wine_quality.schema import FEATURES

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    return postgres.new_database(f"test-{uuid4()}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the queue."""
    return tmp_path / "queue"


@pytest.fixture
def open_store(folder: Path) -> Iterator[Callable[[str], PredictionStore]]:
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


def ids(predictions: list[Prediction]) -> set[str]:
    return {prediction.id for prediction in predictions}


def arrived(url: str, predictions: list[Prediction]) -> None:
    """Return once these predictions, no others, are in the database; none can be there twice, as ids are the key."""
    wait_until(lambda: count(url) >= len(predictions), "predictions in the database")
    assert set(load(url)["id"]) == ids(predictions)


def waiting(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl")))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "wine_quality.predictions"]


def test_a_prediction_is_stored_with_its_inputs_score_version_and_time(open_store, url):
    wine = {"type": "white", **{name: float(number) for number, name in enumerate(FEATURES[1:])}}
    predictions = Prediction("an-id", NOON, "3", wine, 5.25)
    assert open_store(url).add([predictions])
    arrived(url, [predictions])
    (row,) = load(url).to_dict("records")
    assert row == {"id": "an-id", "time": NOON, "version": "3", **wine, "score": 5.25}


def test_times_are_utc_and_those_before_since_are_left_out(open_store, url):
    later = NOON.astimezone(timezone(timedelta(hours=-5))) + timedelta(microseconds=1)
    predictions = [Prediction("second", later, "3", WINE, 5.0), Prediction("first", NOON, "3", WINE, 6.0)]
    assert open_store(url).add(predictions)
    arrived(url, predictions)
    assert list(load(url)["id"]) == ["first", "second"]
    assert str(load(url)["time"].dtype) == "datetime64[us, UTC]"
    assert list(load(url)["time"]) == [NOON, NOON + timedelta(microseconds=1)]
    assert list(load(url, since=later)["id"]) == ["second"]
    assert load(url, since=later + timedelta(microseconds=1)).empty
    assert [count(url), count(url, later), count(url, later + timedelta(microseconds=1))] == [2, 1, 0]


def test_before_the_first_prediction_the_table_has_its_columns_and_no_row(url):
    empty = load(url)
    assert list(empty.columns) == ["id", "time", "version", *FEATURES, "score"]
    assert empty.empty
    assert count(url) == 0
    assert str(empty["time"].dtype) == "datetime64[us, UTC]"


def test_missing_values_are_null_in_the_queue_and_nan_in_the_table(open_store, away, url, folder):
    wine = WINE | {"type": None, "pH": float("nan"), "alcohol": np.float64("nan"), "density": np.float64(0.99)}
    first = open_store(away)
    assert first.add([Prediction("blank", NOON, "3", wine, np.float64(5.5))])
    first.close()
    (line,) = waiting(folder).splitlines()
    found = json.loads(line, parse_constant=pytest.fail)["wine"]
    assert found == WINE | {"type": None, "pH": None, "alcohol": None, "density": 0.99}
    open_store(url)
    wait_until(lambda: count(url), "the prediction")
    row = load(url).iloc[0]
    assert row[["type", "pH", "alcohol"]].isna().all()
    assert (row["density"], row["sulphates"], row["score"]) == (0.99, 5.25, 5.5)


def test_a_line_that_is_inserted_twice_is_one_prediction(open_store, away, url, folder, tmp_path):
    predictions = new_predictions(3)
    first = open_store(away)
    first.add(predictions)
    first.close()
    shutil.copytree(folder, tmp_path / "again")
    arrived_by(open_store, url, predictions)
    shutil.copytree(tmp_path / "again", folder, dirs_exist_ok=True)
    arrived_by(open_store, url, predictions)
    assert not list(folder.iterdir())


def arrived_by(open_store: Callable[[str], PredictionStore], url: str, predictions: list[Prediction]) -> None:
    open_store(url).close()
    arrived(url, predictions)


def test_a_database_that_is_away_at_the_start_gets_everything_once_it_is_there(
    open_store, away, tmp_path, folder, caplog
):
    predictions, first = new_predictions(2), open_store(away)
    assert first.add(predictions[:1])
    wait_until(lambda: first.outage.error, "the warning")
    assert first.add(predictions[1:])
    (tmp_path / "missing").mkdir()
    arrived(away, predictions)
    wait_until(lambda: not first.outage.error, "the end of the outage")
    begin, end = warned(caplog)
    assert begin.startswith(f"{away}: predictions wait in {folder} (unable to open database file")
    assert end == f"{away}: works again"


@pytest.mark.slow
def test_while_the_database_is_locked_predictions_wait_and_they_arrive_after_it(open_store, url, folder, caplog):
    predictions, first = new_predictions(3), open_store(url)
    first.add(predictions[:1])
    arrived(url, predictions[:1])
    with locked(url):
        assert first.add(predictions[1:2])
        wait_until(lambda: first.outage.error, "the warning")
        assert first.add(predictions[2:])
        assert len(waiting(folder).splitlines()) == 2
    arrived(url, predictions)
    wait_until(lambda: not first.outage.error, "the end of the outage")
    assert [line.rpartition(":")[2] for line in warned(caplog)[1:]] == [" works again"]


def test_while_the_database_is_away_there_are_few_segments(open_store, away, folder):
    first = open_store(away)
    for number in range(50):
        first.add(new_predictions(1))
        wait_until(lambda: first.queue.bytes, "the queue")
        if number == 0:
            wait_until(lambda: first.outage.error, "the warning")
        first.flush()
    assert len(list(folder.iterdir())) == 2


def test_a_segment_that_a_living_process_holds_is_left_to_it(open_store, url, folder):
    other = disk_queue.DiskQueue(folder)
    other.add(b"a line that is not finished")
    predictions, first = new_predictions(1), open_store(url)
    assert first.add(predictions)
    arrived(url, predictions)
    assert waiting(folder) == b"a line that is not finished"
    other.release()


def test_a_partial_last_line_is_dropped(open_store, away, url, folder):
    predictions, first = new_predictions(2), open_store(away)
    first.add(predictions)
    first.close()
    (segment,) = folder.iterdir()
    segment.write_bytes(segment.read_bytes() + b'{"id":"partial","time":')
    arrived_by(open_store, url, predictions)
    assert not list(folder.iterdir())


def test_a_segment_with_a_broken_line_is_set_aside_and_those_after_it_arrive(open_store, url, folder, caplog):
    folder.mkdir()
    (folder / "0.jsonl").write_bytes(b"scribble\n")
    predictions, first = new_predictions(1), open_store(url)
    first.add(predictions)
    arrived(url, predictions)
    assert [path.name for path in folder.iterdir()] == ["0.refused"]
    assert warned(caplog)[0].startswith(
        f"{folder}/0.refused: set aside (1 validation error for Prediction Invalid JSON"
    )
    assert warned(caplog)[0].endswith("Mend its lines and name it 0.jsonl.")


def test_a_segment_that_the_database_refuses_is_set_aside_and_those_after_it_arrive(open_store, postgres_url, folder):
    first = open_store(postgres_url)
    first.add([Prediction("refused", NOON, "no text of PostgreSQL: \0", WINE, 5.0)])
    wait_until(lambda: list(folder.glob("*.refused")), "the segment")
    predictions = new_predictions(1)
    first.add(predictions)
    arrived(postgres_url, predictions)


def test_closing_flushes_what_waits(open_store, url, folder):
    predictions, first = new_predictions(2), open_store(url)
    first.add(predictions)
    first.close()
    assert set(load(url)["id"]) == ids(predictions)
    assert not list(folder.iterdir())


def test_closing_leaves_what_cannot_be_inserted_to_the_next_process(open_store, away, tmp_path):
    predictions, first = new_predictions(2), open_store(away)
    first.add(predictions)
    first.close()
    assert not first.thread.is_alive()
    (tmp_path / "missing").mkdir()
    arrived_by(open_store, away, predictions)


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
    first = open_store(postgres_url.replace(PASSWORD, f"wrong-{PASSWORD}"))
    first.add(new_predictions(1))
    wait_until(lambda: first.outage.error, "the warning")
    with pytest.raises(PredictionsError, match="password authentication failed") as caught:
        load(postgres_url.replace(PASSWORD, f"wrong-{PASSWORD}"))
    assert "password authentication failed" in caplog.text
    for text in (caplog.text, str(caught.value), repr(first), repr(vars(first)), repr(vars(first.database))):
        assert PASSWORD not in text


def test_a_database_that_is_away_cannot_be_read(away):
    with pytest.raises(PredictionsError, match=r"cannot be read \(unable to open database file\)\. Start it, or mend"):
        load(away)
