import signal
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from postgres import Postgres, postgres_server
from prediction_writer import new_predictions
from servers import running, wait_until

from wine_quality.predictions import PredictionStore, count, load

pytestmark = pytest.mark.slow

WRITER = str(Path(__file__).with_name("prediction_writer.py"))
Store = partial(PredictionStore, flush_seconds=0.02, max_wait=0.1)


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server that the test may stop."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the queue."""
    return tmp_path / "queue"


def ids(url: str) -> list[str]:
    return list(load(url)["id"])


def drain(folder: Path, url: str) -> None:
    """Insert all that waits in a queue."""
    with closing(Store(folder, url)):
        wait_until(lambda: not list(folder.glob("*.jsonl")), "an empty queue")


def whole_lines(log: Path) -> list[str]:
    *lines, _partial = log.read_text().split("\n")
    return lines


def test_what_a_killed_process_acknowledged_is_in_the_database_exactly_once(database_url, folder, tmp_path):
    acknowledged = []
    for kill in range(3):
        log = tmp_path / f"acknowledged-{kill}"
        with running([WRITER, str(folder)], log, WINE_PREDICTIONS=database_url) as process:
            wait_until(lambda log=log: log.stat().st_size > 40_000, "the first thousand")
            process.kill()
        acknowledged += whole_lines(log)
    drain(folder, database_url)
    there = ids(database_url)
    assert len(acknowledged) > 3000
    assert set(acknowledged) <= set(there)
    assert len(set(there)) == len(there)


def test_two_processes_share_a_queue_and_a_database(database_url, folder, tmp_path):
    logs = [tmp_path / "one", tmp_path / "two"]
    with (
        running([WRITER, str(folder), "1000"], logs[0], WINE_PREDICTIONS=database_url) as one,
        running([WRITER, str(folder), "1000"], logs[1], WINE_PREDICTIONS=database_url) as two,
    ):
        assert (one.wait(timeout=60), two.wait(timeout=60)) == (0, 0)
    drain(folder, database_url)
    acknowledged = [line for log in logs for line in whole_lines(log)]
    assert len(acknowledged) == 2 * 1999
    assert sorted(ids(database_url)) == sorted(acknowledged)
    assert not list(folder.iterdir())


def test_a_server_that_is_stopped_and_started_again_gets_everything(server, folder):
    predictions = new_predictions(3)
    with closing(Store(folder, server.url())) as store:
        assert store.add(predictions[:1])
        wait_until(lambda: count(server.url()), "the first prediction")
        server.stop()
        assert store.add(predictions[1:2])
        wait_until(lambda: store.outage.error, "the warning")
        assert store.add(predictions[2:])
        server.start()
        wait_until(lambda: count(server.url()) == 3, "the others")
    assert set(ids(server.url())) == {prediction.id for prediction in predictions}


def test_a_server_that_is_silent_is_not_waited_for(server, folder):
    predictions = new_predictions(3)
    with closing(Store(folder, server.url())) as store:
        server.process.send_signal(signal.SIGSTOP)
        assert store.add(predictions[:2])
        wait_until(lambda: store.outage.error, "the warning")
        assert store.add(predictions[2:])
        server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: count(server.url()) == 3, "all predictions")
    assert set(ids(server.url())) == {prediction.id for prediction in predictions}
