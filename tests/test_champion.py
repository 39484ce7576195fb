"""The champion follows its alias; if a version can't be loaded, the old one keeps serving and the reason is given."""

import asyncio
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest
from mlflow import MlflowClient
from versions import crown, few_sides, model_path, register_model, register_with_columns, tamper, version

import deployment.champion
from deployment.champion import Champion
from wine_quality import registry, tracking
from wine_quality.config import settings
from wine_quality.schema import FEATURES, to_matrix
from wine_quality.scoring import load_scorer


@pytest.fixture
def first(config):
    crown(one := register_model(config, "linear"))
    return one


@pytest.fixture
def served(config, first) -> Champion:
    """The champion, loaded."""
    champion = Champion(config)
    champion.refresh()
    assert serves(champion, "1")
    return champion


@pytest.fixture(scope="module")
def matrix():
    return to_matrix(few_sides()[1].head(1))


def serves(champion: Champion, number: str, problem: str = "") -> bool:
    assert champion.scorer.version == number
    assert "\n" not in champion.problem
    return problem in champion.problem if problem else champion.problem == ""


def test_without_a_store_or_a_champion_there_is_nothing_to_serve_and_no_store_is_created(tmp_path, empty_store):
    champion = Champion(settings())
    assert (champion.scorer, champion.problem) == (None, "the champion is still loading")
    champion.refresh()
    assert champion.scorer is None
    assert "no MLflow store" in champion.problem
    assert champion.problem.endswith("make run.")
    assert list(tmp_path.iterdir()) == []
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    champion.refresh()
    assert champion.scorer is None
    assert champion.problem == "no version has the alias champion. Train one: make run."


def test_a_swap_is_logged_and_a_request_that_holds_the_old_version_finishes_with_it(config, first, matrix, caplog):
    caplog.set_level(logging.INFO, "wine_quality")
    champion = Champion(config)
    champion.refresh()
    assert serves(champion, "1")
    old, since, before = champion.scorer, champion.since, load_scorer(config, first).score(matrix)
    assert since.utcoffset().total_seconds() == 0
    assert old.score(matrix) == before
    crown(register_model(config, "decision_tree"))
    for _ in range(2):
        champion.refresh()
        assert serves(champion, "2")
    assert champion.scorer.score(matrix) != before
    assert old.score(matrix) == before
    assert champion.since > since
    crown(first)
    champion.refresh()
    pipeline = "Engine: pipeline (no ONNX graph: it would be no faster, or there is no converter)"
    assert [record.getMessage() for record in caplog.records if record.name == "wine_quality.champion"] == [
        f"champion  wine-quality version 1, loaded at startup. {pipeline}",
        "champion  wine-quality version 1 -> version 2: the alias champion moved. "
        "Engine: onnx (its ONNX graph was verified at promotion)",
        f"champion  wine-quality version 2 -> version 1: the alias champion moved. {pipeline}",
    ]


def test_loading_a_version_slowly_delays_no_request(config, first, monkeypatch):
    started, go_on = threading.Event(), threading.Event()

    def load_slowly(*args):
        started.set()
        assert go_on.wait(30)
        return load_scorer(*args)

    async def longest_wait(champion: Champion) -> float:
        polling, waits = asyncio.create_task(champion.poll()), []
        while len(waits) < 20:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            waits += [time.monotonic() - before] if started.is_set() else []
        assert champion.scorer is None
        go_on.set()
        while not champion.scorer:
            await asyncio.sleep(0.01)
        polling.cancel()
        return max(waits)

    monkeypatch.setattr(deployment.champion, "load_scorer", load_slowly)
    assert asyncio.run(longest_wait(Champion(config, 0.01))) < 1


@contextmanager
def failure(kind: str, config) -> Iterator[None]:
    """Break the version with the alias, or its store, within the block."""
    store, away = config.home / "mlflow.db", config.home / "away.db"
    with closing(sqlite3.connect(store, isolation_level=None)) as other, pytest.MonkeyPatch.context() as patch:
        if kind == "tampered version":
            tamper(model_path(second := register_model(config, "xgboost")))
            crown(second)
        elif kind == "other signature":
            crown(register_with_columns(config, FEATURES, "float32"))
        elif kind == "no alias":
            MlflowClient().delete_registered_model_alias(config.registered_model, registry.CHAMPION)
        elif kind == "locked store":
            other.execute("BEGIN EXCLUSIVE")
        elif kind == "unexpected error":
            patch.setattr(registry, "champion", lambda _: 1 / 0)
        else:
            store.rename(away)
        if kind == "no database":
            store.write_text("not a database")
        yield
    if away.exists():
        assert store.exists() == (kind == "no database"), "no store is created"
        away.replace(store)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("tampered version", "wine-quality version 2 cannot be used: model.skops isn't the registered file"),
        ("other signature", "wine-quality version 2 has another signature than version 1, which is still serving."),
        ("no alias", "no version has the alias champion"),
        ("no store", "there is no MLflow store, or it was deleted."),
        ("no database", "MLflow: file is not a database"),
        pytest.param("locked store", "MLflow: database is locked", marks=pytest.mark.slow),
        ("unexpected error", "See the log for the cause."),
    ],
)
def test_the_old_version_keeps_serving_until_the_problem_is_fixed(served, config, matrix, caplog, kind, problem):
    before = served.scorer.score(matrix)
    with failure(kind, config):
        served.refresh()
        assert serves(served, "1", problem)
        assert served.scorer.score(matrix) == before
    assert ("ZeroDivisionError" in caplog.text) == (kind == "unexpected error")
    crown(version(config, "1"))
    served.refresh()
    assert serves(served, "1")


def test_a_version_that_failed_is_tried_again_later_or_when_the_alias_returns_to_it(served, config, first, monkeypatch):
    def load(config, version):
        loads.append(str(version.version))
        return load_scorer(config, version)

    loads, second = [], register_model(config, "linear")
    monkeypatch.setattr(deployment.champion, "load_scorer", load)
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
    for _ in range(2):
        served.refresh()
        assert serves(served, "2")
    assert loads == ["2", "2", "2"]


def test_a_new_store_is_followed_although_its_versions_have_the_same_numbers(served, config, empty_store, caplog):
    caplog.set_level(logging.INFO, "wine_quality")
    old = served.scorer
    (config.home / "mlflow.db").unlink()
    shutil.copyfile(empty_store, config.home / "mlflow.db")
    tracking.open_store(config)
    served.refresh()
    assert serves(served, "1", "no version has the alias champion")
    crown(register_model(config, "decision_tree"))
    served.refresh()
    assert serves(served, "1")
    assert served.scorer is not old
    assert served.scorer.engine == "onnx"
    assert "version 1 -> version 1 of another run: the registry was replaced" in caplog.text


@pytest.mark.slow
def test_threads_get_consistent_scores_while_versions_change(config, first, matrix):
    second = register_model(config, "decision_tree")
    scores = {str(one.version): load_scorer(config, one).score(matrix)[0] for one in (first, second)}
    champion, stopped, wrong, seen = Champion(config), threading.Event(), [], set()
    champion.refresh()

    def score() -> None:
        while not stopped.is_set():
            scorer = champion.scorer
            seen.add(scorer.version)
            if not np.array_equal(scorer.score(matrix), [scores[scorer.version]]):
                wrong.append(scorer.version)

    with ThreadPoolExecutor() as pool:
        threads = [pool.submit(score) for _ in range(4)]
        for number in range(6):
            crown((second, first)[number % 2])
            champion.refresh()
        stopped.set()
    assert [thread.exception() for thread in threads] == [None] * 4
    assert wrong == []
    assert seen == {"1", "2"}
