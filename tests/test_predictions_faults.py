import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from postgres import Postgres, postgres_server
from prediction_writer import made
from servers import running, wait_until

from wine_quality import predictions
from wine_quality.predictions import Predictions, read

KEEPER = str(Path(__file__).with_name("prediction_writer.py"))


@pytest.fixture
def server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/predictions.db"
    return request.getfixturevalue("server").url()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the spool."""
    return tmp_path / "spool"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "SHIP_SECONDS", 0.02)
    monkeypatch.setattr(predictions, "LONGEST_WAIT", 0.1)


def ids(url: str) -> list[str]:
    return list(read(url)["id"])


def drain(folder: Path, url: str) -> None:
    """Ship all that waits in a spool."""
    with closing(Predictions(folder, url)):
        wait_until(lambda: not list(folder.glob("*.jsonl")), "an empty spool")


def whole_lines(log: Path) -> list[str]:
    *lines, _torn = log.read_text().split("\n")
    return lines


@pytest.mark.slow
def test_what_a_killed_process_was_told_is_stored_is_in_the_database_exactly_once(url, folder, tmp_path):
    acknowledged = []
    for kill in range(3):
        log = tmp_path / f"acknowledged-{kill}"
        with running([KEEPER, str(folder)], log, WINE_PREDICTIONS=url) as process:
            wait_until(lambda log=log: log.stat().st_size > 40_000, "the first thousand")
            process.kill()
        acknowledged += whole_lines(log)
    drain(folder, url)
    there = ids(url)
    assert len(acknowledged) > 3000
    assert set(acknowledged) <= set(there)
    assert len(set(there)) == len(there)


@pytest.mark.slow
def test_two_processes_keep_in_the_same_spool_and_database(url, folder, tmp_path):
    logs = [tmp_path / "one", tmp_path / "two"]
    with (
        running([KEEPER, str(folder), "1000"], logs[0], WINE_PREDICTIONS=url) as one,
        running([KEEPER, str(folder), "1000"], logs[1], WINE_PREDICTIONS=url) as two,
    ):
        assert (one.wait(timeout=60), two.wait(timeout=60)) == (0, 0)
    drain(folder, url)
    acknowledged = [line for log in logs for line in whole_lines(log)]
    assert len(acknowledged) == 2 * 1999
    assert sorted(ids(url)) == sorted(acknowledged)
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_a_server_that_is_stopped_and_started_again_gets_everything(server, folder):
    kept = made(3)
    with closing(Predictions(folder, server.url())) as first:
        assert first.keep(kept[:1])
        wait_until(lambda: ids(server.url()), "the first prediction")
        server.stop()
        assert first.keep(kept[1:2])
        wait_until(lambda: first.trouble.now, "the warning")
        assert first.keep(kept[2:])
        server.start()
        wait_until(lambda: len(ids(server.url())) == 3, "the others")
    assert set(ids(server.url())) == {prediction.id for prediction in kept}


@pytest.mark.slow
def test_a_server_that_is_silent_is_not_waited_for(server, folder):
    kept = made(3)
    with closing(Predictions(folder, server.url())) as first:
        server.process.send_signal(signal.SIGSTOP)
        assert first.keep(kept[:2])
        wait_until(lambda: first.trouble.now, "the warning")
        assert first.keep(kept[2:])
        server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(ids(server.url())) == 3, "all predictions")
    assert set(ids(server.url())) == {prediction.id for prediction in kept}
