"""The champion is followed wherever its alias goes; what cannot be served leaves the old one, and is told."""

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
from mlflow import MlflowClient
from servers import wait_until
from versions import crown, few_sides, model_path, registered, registered_otherwise, tamper

import deployment.champion
from deployment.champion import Champion
from wine_quality import registry, tracking
from wine_quality.config import settings
from wine_quality.schema import FEATURES
from wine_quality.scoring import columns_of, load_scorer


@pytest.fixture
def first(config):
    """A version that is champion."""
    made = registered(config, "linear")
    crown(made)
    return made


@pytest.fixture
def served(config, first) -> Champion:
    """The champion, loaded."""
    champion = Champion(config)
    champion.refresh()
    assert serves(champion, "1")
    return champion


@pytest.fixture(scope="module")
def wine():
    return columns_of(few_sides()[1].head(1))


def serves(champion: Champion, number: str, trouble: str = "") -> bool:
    assert champion.scorer.version == number
    assert "\n" not in champion.problem
    return trouble in champion.problem if trouble else champion.problem == ""


@contextmanager
def watched(champion: Champion) -> Iterator[None]:
    """Let a champion watch in an event loop, on a thread, in the block."""

    async def watch_until(over: threading.Event) -> None:
        watching = asyncio.create_task(champion.watch())
        while not over.is_set():
            await asyncio.sleep(0.02)
        watching.cancel()

    over = threading.Event()
    loop = threading.Thread(target=lambda: asyncio.run(watch_until(over)))
    loop.start()
    try:
        yield
    finally:
        over.set()
        loop.join()
        wait_until(lambda: "champion" not in [thread.name for thread in threading.enumerate()], "the last look")


def test_without_a_store_there_is_nothing_to_serve_and_none_is_made(tmp_path):
    champion = Champion(settings())
    assert (champion.scorer, champion.problem) == (None, "the champion is being loaded")
    champion.refresh()
    assert champion.scorer is None
    assert "no MLflow store" in champion.problem
    assert champion.problem.endswith("make run.")
    assert list(tmp_path.iterdir()) == []


def test_without_a_champion_there_is_nothing_to_serve(config):
    champion = Champion(config)
    champion.refresh()
    assert (champion.scorer, champion.since) == (None, None)
    assert champion.problem == "no version has the alias champion. Train one: make run."


def test_a_champion_is_loaded_and_ready(served, config, first, wine):
    assert served.since.utcoffset().total_seconds() == 0
    assert served.scorer.score(wine) == load_scorer(config, first).score(wine)


def test_a_request_that_holds_the_old_version_finishes_with_it(served, config, wine):
    held, before, since = served.scorer, served.scorer.score(wine), served.since
    crown(registered(config, "decision_tree"))
    served.refresh()
    assert serves(served, "2")
    assert served.scorer.score(wine) != before
    assert held.score(wine) == before
    assert served.since > since


@pytest.mark.slow
def test_a_moved_alias_is_noticed_within_ten_seconds(config, first):
    champion = Champion(config)
    with watched(champion):
        wait_until(lambda: champion.scorer, "the first champion")
        crown(registered(config, "decision_tree"))
        wait_until(lambda: champion.scorer.version == "2", "the new champion")
        crown(first)
        wait_until(lambda: champion.scorer.version == "1", "the old champion again")


def test_a_version_that_takes_long_to_load_keeps_no_request_waiting(config, first, monkeypatch):
    started, go_on = threading.Event(), threading.Event()

    def load_slowly(*args):
        started.set()
        assert go_on.wait(30)
        return load_scorer(*args)

    monkeypatch.setattr(deployment.champion, "load_scorer", load_slowly)

    async def longest_wait(champion: Champion) -> float:
        watching, waits = asyncio.create_task(champion.watch()), []
        while len(waits) < 20:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            waits += [time.monotonic() - before] if started.is_set() else []
        assert champion.scorer is None
        go_on.set()
        while not champion.scorer:
            await asyncio.sleep(0.01)
        watching.cancel()
        return max(waits)

    assert asyncio.run(longest_wait(Champion(config, 0.01))) < 1


def test_a_tampered_version_leaves_the_old_one_serving(served, config):
    second = registered(config, "xgboost")
    tamper(model_path(second))
    crown(second)
    served.refresh()
    assert serves(served, "1", "wine-quality version 2 cannot be used: model.skops is not the file that was noted")
    crown(registered(config, "decision_tree"))
    served.refresh()
    assert serves(served, "3")


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The numbers of the versions that are loaded, one for each time."""
    numbers = []

    def load_and_note(config, version):
        numbers.append(str(version.version))
        return load_scorer(config, version)

    monkeypatch.setattr(deployment.champion, "load_scorer", load_and_note)
    return numbers


def test_a_version_that_failed_is_tried_again_after_a_while_or_when_the_alias_comes_back(
    served, config, first, loads, monkeypatch
):
    second = registered(config, "linear")
    whole = model_path(second).read_bytes()
    tamper(model_path(second))
    crown(second)
    for _ in range(3):
        served.refresh()
    assert loads == ["2"]
    assert serves(served, "1", "version 2 cannot be used")

    crown(first)
    served.refresh()
    assert serves(served, "1")
    crown(second)
    served.refresh()
    assert loads == ["2", "2"]

    model_path(second).write_bytes(whole)
    served.refresh()
    assert serves(served, "1", "version 2 cannot be used")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + deployment.champion.RETRY_SECONDS)
    served.refresh()
    assert serves(served, "2")
    served.refresh()
    assert loads == ["2", "2", "2"]


def test_a_version_of_another_signature_leaves_the_old_one_serving(served, config, first):
    crown(registered_otherwise(config, FEATURES, "float32"))
    served.refresh()
    assert serves(served, "1", "wine-quality version 2 has another signature than version 1, which serves on.")
    crown(first)
    served.refresh()
    assert serves(served, "1")


def test_an_alias_that_is_taken_away_leaves_the_old_one_serving(served, config, first):
    MlflowClient().delete_registered_model_alias(config.registered_model, registry.CHAMPION)
    served.refresh()
    assert serves(served, "1", "no version has the alias champion")
    crown(first)
    served.refresh()
    assert serves(served, "1")


def test_a_store_that_goes_away_leaves_the_old_one_serving_until_it_is_back(served, config, wine):
    before = served.scorer.score(wine)
    here, away = config.home / "mlflow.db", config.home / "away.db"
    here.rename(away)
    served.refresh()
    assert serves(served, "1", "there is no MLflow store, or it was taken away.")
    assert served.scorer.score(wine) == before
    assert not here.exists()
    away.rename(here)
    served.refresh()
    assert serves(served, "1")


def test_a_store_that_is_made_anew_is_followed_though_its_versions_have_the_same_numbers(
    served, config, empty_store, wine
):
    old = served.scorer
    (config.home / "mlflow.db").unlink()
    shutil.copyfile(empty_store, config.home / "mlflow.db")
    tracking.open_store(config)
    served.refresh()
    assert serves(served, "1", "no version has the alias champion")
    crown(registered(config, "decision_tree"))
    served.refresh()
    assert serves(served, "1")
    assert served.scorer is not old
    assert served.scorer.engine == "onnx"


@pytest.mark.slow
def test_a_store_that_is_locked_leaves_the_old_one_serving(served, config):
    with closing(sqlite3.connect(config.home / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        served.refresh()
        assert serves(served, "1", "MLflow: database is locked")
    served.refresh()
    assert serves(served, "1")


def test_a_store_that_is_no_database_is_told(served, config):
    (config.home / "mlflow.db").write_text("no database, but some text in its place")
    served.refresh()
    assert serves(served, "1", "MLflow: file is not a database")


def test_an_error_that_nobody_thought_of_does_not_end_the_watch(served, monkeypatch, caplog):
    with monkeypatch.context() as broken:
        broken.setattr(registry, "champion", lambda _config: 1 / 0)
        served.refresh()
    assert serves(served, "1", "The log has the cause.")
    assert "ZeroDivisionError" in caplog.text
    served.refresh()
    assert serves(served, "1")


@pytest.mark.slow
def test_requests_of_many_threads_get_whole_answers_while_versions_change(config, first, wine):
    second = registered(config, "decision_tree")
    scores = {str(made.version): load_scorer(config, made).score(wine)[0] for made in (first, second)}
    champion, over, wrong, seen = Champion(config), threading.Event(), [], set()
    champion.refresh()

    def ask() -> None:
        while not over.is_set():
            scorer = champion.scorer
            seen.add(scorer.version)
            if not np.array_equal(scorer.score(wine), [scores[scorer.version]]):
                wrong.append(scorer.version)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for number in range(6):
        crown((second, first)[number % 2])
        champion.refresh()
    over.set()
    for asker in askers:
        asker.join()
    assert wrong == []
    assert seen == {"1", "2"}


def test_each_swap_is_logged_with_both_versions_the_reason_and_the_engine(config, first, caplog):
    caplog.set_level(logging.INFO, "wine_quality")
    champion = Champion(config)
    champion.refresh()
    crown(registered(config, "decision_tree"))
    champion.refresh()
    champion.refresh()
    crown(first)
    champion.refresh()
    slow = "It scores by pipeline: no ONNX graph: it would gain nothing, or has no converter"
    assert [record.getMessage() for record in caplog.records if record.name == "wine_quality.champion"] == [
        f"champion  wine-quality version 1, the first since the start. {slow}",
        "champion  wine-quality version 1 -> version 2, because the alias champion moved. "
        "It scores by onnx: its ONNX graph was checked when it was promoted",
        f"champion  wine-quality version 2 -> version 1, because the alias champion moved. {slow}",
    ]


def test_a_swap_to_the_same_number_in_a_replaced_registry_says_so(served, config, empty_store, caplog):
    caplog.set_level(logging.INFO, "wine_quality")
    (config.home / "mlflow.db").unlink()
    shutil.copyfile(empty_store, config.home / "mlflow.db")
    tracking.open_store(config)
    crown(registered(config, "decision_tree"))
    served.refresh()
    assert "version 1 -> version 1 of another run, because the registry was replaced" in caplog.text
