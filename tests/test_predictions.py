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
from postgres import PASSWORD, Postgres, postgres_server
from prediction_writer import WINE, made
from servers import wait_until

from wine_quality import disk_queue as spool
from wine_quality import predictions
from wine_quality.errors import PredictionsError, SettingsError
from wine_quality.predictions import Prediction, Predictions, read
from wine_quality.schema import FEATURES

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/predictions.db?timeout=0.1"
    return request.getfixturevalue("server").new_database(f"test-{uuid4()}")


@pytest.fixture
def postgres_url(server: Postgres) -> str:
    return server.new_database(f"test-{uuid4()}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the spool."""
    return tmp_path / "spool"


@pytest.fixture
def keeper(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Predictions]]:
    """A function that opens the spool for a database; what it opens ships in a hurry and is closed after the test."""
    monkeypatch.setattr(predictions, "SHIP_SECONDS", 0.02)
    monkeypatch.setattr(predictions, "LONGEST_WAIT", 0.1)
    opened = []

    def open_spool(url: str) -> Predictions:
        opened.append(Predictions(folder, url))
        return opened[-1]

    yield open_spool
    for each in opened:
        each.close()


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


def ids(kept: list[Prediction]) -> set[str]:
    return {prediction.id for prediction in kept}


def arrived(url: str, kept: list[Prediction]) -> None:
    """Return once these predictions, no others, are in the database; none can be there twice, as ids are the key."""
    wait_until(lambda: len(read(url)) >= len(kept), "predictions in the database")
    assert set(read(url)["id"]) == ids(kept)


def spooled(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl")))


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "wine_quality.predictions"]


def test_a_prediction_is_kept_with_its_inputs_score_version_and_time(keeper, url):
    wine = {"type": "white", **{name: float(number) for number, name in enumerate(FEATURES[1:])}}
    kept = Prediction("an-id", NOON, "3", wine, 5.25)
    assert keeper(url).keep([kept])
    arrived(url, [kept])
    (row,) = read(url).to_dict("records")
    assert row == {"id": "an-id", "time": NOON, "version": "3", **wine, "score": 5.25}


def test_times_are_utc_and_those_before_since_are_left_out(keeper, url):
    later = NOON.astimezone(timezone(timedelta(hours=-5))) + timedelta(microseconds=1)
    kept = [Prediction("second", later, "3", WINE, 5.0), Prediction("first", NOON, "3", WINE, 6.0)]
    assert keeper(url).keep(kept)
    arrived(url, kept)
    assert list(read(url)["id"]) == ["first", "second"]
    assert str(read(url)["time"].dtype) == "datetime64[us, UTC]"
    assert list(read(url)["time"]) == [NOON, NOON + timedelta(microseconds=1)]
    assert list(read(url, since=later)["id"]) == ["second"]
    assert read(url, since=later + timedelta(microseconds=1)).empty


def test_before_the_first_prediction_the_table_has_its_columns_and_no_row(url):
    empty = read(url)
    assert list(empty.columns) == ["id", "time", "version", *FEATURES, "score"]
    assert empty.empty
    assert str(empty["time"].dtype) == "datetime64[us, UTC]"


def test_blanks_are_null_in_the_spool_and_nan_in_the_table(keeper, away, url, folder):
    wine = WINE | {"type": None, "pH": float("nan"), "alcohol": np.float64("nan"), "density": np.float64(0.99)}
    first = keeper(away)
    assert first.keep([Prediction("blank", NOON, "3", wine, np.float64(5.5))])
    first.close()
    (line,) = spooled(folder).splitlines()
    found = json.loads(line, parse_constant=pytest.fail)["wine"]
    assert found == WINE | {"type": None, "pH": None, "alcohol": None, "density": 0.99}
    keeper(url)
    wait_until(lambda: len(read(url)), "the prediction")
    row = read(url).iloc[0]
    assert row[["type", "pH", "alcohol"]].isna().all()
    assert (row["density"], row["sulphates"], row["score"]) == (0.99, 5.25, 5.5)


def test_a_line_that_is_shipped_twice_is_one_prediction(keeper, away, url, folder, tmp_path):
    kept = made(3)
    first = keeper(away)
    first.keep(kept)
    first.close()
    shutil.copytree(folder, tmp_path / "again")
    arrived_by(keeper, url, kept)
    shutil.copytree(tmp_path / "again", folder, dirs_exist_ok=True)
    arrived_by(keeper, url, kept)
    assert not list(folder.iterdir())


def arrived_by(keeper: Callable[[str], Predictions], url: str, kept: list[Prediction]) -> None:
    keeper(url).close()
    arrived(url, kept)


def test_a_database_that_is_away_at_the_start_gets_everything_once_it_is_there(keeper, away, tmp_path, folder, caplog):
    kept, first = made(2), keeper(away)
    assert first.keep(kept[:1])
    wait_until(lambda: first.trouble.now, "the warning")
    assert first.keep(kept[1:])
    (tmp_path / "missing").mkdir()
    arrived(away, kept)
    wait_until(lambda: not first.trouble.now, "the end of the trouble")
    begin, end = warned(caplog)
    assert begin.startswith(f"{away}: predictions wait in {folder} (unable to open database file")
    assert end == f"{away}: works again"


@pytest.mark.slow
def test_while_the_database_is_locked_predictions_are_kept_and_they_arrive_after_it(keeper, url, folder, caplog):
    kept, first = made(3), keeper(url)
    first.keep(kept[:1])
    arrived(url, kept[:1])
    with locked(url):
        assert first.keep(kept[1:2])
        wait_until(lambda: first.trouble.now, "the warning")
        assert first.keep(kept[2:])
        assert len(spooled(folder).splitlines()) == 2
    arrived(url, kept)
    wait_until(lambda: not first.trouble.now, "the end of the trouble")
    assert [line.rpartition(":")[2] for line in warned(caplog)[1:]] == [" works again"]


def test_while_the_database_is_away_there_are_few_segments(keeper, away, folder):
    first = keeper(away)
    for number in range(50):
        first.keep(made(1))
        wait_until(lambda: first.spool.waiting, "the spool")
        if number == 0:
            wait_until(lambda: first.trouble.now, "the warning")
        first.ship()
    assert len(list(folder.iterdir())) == 2


def test_a_segment_that_a_living_process_holds_is_left_to_it(keeper, url, folder):
    other = spool.Spool(folder)
    other.add(b"a line that is not finished")
    kept, first = made(1), keeper(url)
    assert first.keep(kept)
    arrived(url, kept)
    assert spooled(folder) == b"a line that is not finished"
    other.cut()


def test_a_torn_last_line_is_dropped(keeper, away, url, folder):
    kept, first = made(2), keeper(away)
    first.keep(kept)
    first.close()
    (segment,) = folder.iterdir()
    segment.write_bytes(segment.read_bytes() + b'{"id":"torn","time":')
    arrived_by(keeper, url, kept)
    assert not list(folder.iterdir())


def test_a_segment_with_a_broken_line_is_put_aside_and_those_after_it_arrive(keeper, url, folder, caplog):
    folder.mkdir()
    (folder / "0.jsonl").write_bytes(b"scribble\n")
    kept, first = made(1), keeper(url)
    first.keep(kept)
    arrived(url, kept)
    assert [path.name for path in folder.iterdir()] == ["0.refused"]
    assert warned(caplog)[0].startswith(
        f"{folder}/0.refused: put aside (1 validation error for Prediction Invalid JSON"
    )
    assert warned(caplog)[0].endswith("Mend its lines and name it 0.jsonl.")


def test_a_segment_that_the_database_refuses_is_put_aside_and_those_after_it_arrive(keeper, postgres_url, folder):
    first = keeper(postgres_url)
    first.keep([Prediction("refused", NOON, "no text of PostgreSQL: \0", WINE, 5.0)])
    wait_until(lambda: list(folder.glob("*.refused")), "the segment")
    kept = made(1)
    first.keep(kept)
    arrived(postgres_url, kept)


def test_closing_ships_what_waits(keeper, url, folder):
    kept, first = made(2), keeper(url)
    first.keep(kept)
    first.close()
    assert set(read(url)["id"]) == ids(kept)
    assert not list(folder.iterdir())


def test_closing_leaves_what_cannot_be_shipped_to_the_next_process(keeper, away, tmp_path):
    kept, first = made(2), keeper(away)
    first.keep(kept)
    first.close()
    assert not first.thread.is_alive()
    (tmp_path / "missing").mkdir()
    arrived_by(keeper, away, kept)


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
def test_an_address_that_cannot_be_used_is_told_without_its_password(folder, url):
    with pytest.raises(SettingsError, match=r"^WINE_PREDICTIONS: not the address of a database") as told:
        Predictions(folder, url)
    assert "corked" not in "".join(format_exception(told.value))
    assert not folder.exists()


def test_a_password_is_in_no_line_error_or_repr(keeper, postgres_url, caplog):
    caplog.set_level(logging.DEBUG)
    first = keeper(postgres_url.replace(PASSWORD, f"wrong-{PASSWORD}"))
    first.keep(made(1))
    wait_until(lambda: first.trouble.now, "the warning")
    with pytest.raises(PredictionsError, match="password authentication failed") as told:
        read(postgres_url.replace(PASSWORD, f"wrong-{PASSWORD}"))
    assert "password authentication failed" in caplog.text
    for text in (caplog.text, str(told.value), repr(first), repr(vars(first)), repr(vars(first.store))):
        assert PASSWORD not in text


def test_a_database_that_is_away_cannot_be_read(away):
    with pytest.raises(PredictionsError, match=r"cannot be read \(unable to open database file\)\. Start it, or mend"):
        read(away)
