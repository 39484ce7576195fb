"""The challenger in the shadow: what it scores, how it is compared, and what follows."""

import os
import signal
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import orjson
import pandas as pd
import pytest
import requests
from servers import processes_at, running, wait_until
from versions import crown, few_sides, register_model

from deployment.shadow import Shadow
from monitoring.monitor import monitor_wine_quality
from wine_quality import labels, registry, shadow, tracking
from wine_quality.config import Settings
from wine_quality.errors import TrackingError
from wine_quality.models import predict
from wine_quality.ports import free_port, listens
from wine_quality.predictions import Database, Prediction
from wine_quality.schema import FEATURES, TARGET
from wine_quality.shadow import SHADOW, ShadowComparison, compare

NOW = datetime.now(UTC)


@pytest.fixture
def rows() -> pd.DataFrame:
    return few_sides()[1].reset_index(drop=True)


@pytest.fixture
def both(config) -> Settings:
    """The settings of a home with a champion, version 1, and a challenger, version 2."""
    crown(register_model(config, "mean", intervals=True))
    register_model(config, "extra_trees", intervals=True, n_estimators=30)
    return config


def store_predictions(url: str, table: pd.DataFrame, version: str = "1", time: datetime = NOW, score=6.0) -> list[str]:
    """Store predictions of a version for the rows of a table, and return their ids."""
    wines = [Prediction(str(uuid4()), time, version, row, score) for row in table[FEATURES].to_dict("records")]
    Database(url).insert([orjson.dumps(one) for one in wines])
    return [one.id for one in wines]


def challenger_scores(config: Settings, rows: pd.DataFrame) -> np.ndarray:
    with tracking.store(config) as store:
        return predict(registry.load_version(store, registry.challenger(store)), rows)


def test_only_what_the_champion_scored_from_a_time_on_and_the_challenger_did_not_is_unscored(database_url, rows):
    before, old = NOW - timedelta(hours=1), rows[:3]
    assert shadow.unscored(database_url, "1", "2", NOW, 10).empty
    store_predictions(database_url, old, time=before)
    store_predictions(database_url, old, version="0")
    ids = store_predictions(database_url, rows[3:8])
    assert set(shadow.unscored(database_url, "1", "2", NOW, 10)["id"]) == set(ids)
    assert len(shadow.unscored(database_url, "1", "2", NOW, 2)) == 2
    shadow.insert(Database(database_url), "2", dict.fromkeys(ids[:4], 5.5))
    shadow.insert(Database(database_url), "2", dict.fromkeys(ids[:4], 9.0))
    assert list(shadow.unscored(database_url, "1", "2", NOW, 10)["id"]) == ids[4:]
    assert set(shadow.unscored(database_url, "1", "3", NOW, 10)["id"]) == set(ids)
    assert (shadow.count(database_url, "2"), shadow.count(database_url, "3")) == (4, 0)
    assert shadow.labelled_pairs(database_url, "1", "2").empty
    labels.add(database_url, dict.fromkeys(ids[3:], 7))
    (pair,) = shadow.labelled_pairs(database_url, "1", "2").to_dict("records")
    assert (pair["id"], pair["score"], pair[SHADOW], pair[TARGET]) == (ids[3], 6.0, 5.5, 7)


def pairs(gain: float, count: int = 300) -> pd.DataFrame:
    """Return pairs in which the challenger's errors are smaller by a share."""
    table = pd.concat([few_sides()[0]] * 3, ignore_index=True).head(count)
    errors = np.random.default_rng(1).normal(0, 0.7, count)
    return table.assign(score=table[TARGET] + errors, **{SHADOW: table[TARGET] + (1 - gain) * errors})


def test_a_challenger_passes_if_it_is_better_by_the_minimum_and_more_than_chance():
    better = compare(pairs(0.2), "1", "2", [], 0.004)
    assert (better.reason, better.rows, better.use) == ("", 300, 1)
    assert 0 < better.low < better.gain < better.high
    assert str(better).startswith("version 2 against 1: RMSE lower by 0.1")
    assert compare(pairs(0.001), "1", "2", [], 0.004).reason == "its gain is below the minimum effect of 0.004"
    assert compare(pairs(-0.2), "1", "2", [], 0.004).gain < 0


def test_a_challenger_that_is_worse_on_a_slice_is_refused():
    table = pairs(0.0)
    errors, red = table["score"] - table[TARGET], table["type"] == "red"

    def reason(of_challenger: pd.Series) -> str:
        scores = {"score": table[TARGET] + errors.where(red, 3 * errors), SHADOW: table[TARGET] + of_challenger}
        return compare(table.assign(**scores), "1", "2", [], 0.004).reason

    assert reason(errors.where(~red, 2 * errors)).startswith("significantly worse on red (RMSE higher by 0.")
    assert reason(errors) == ""


def test_too_few_new_pairs_are_not_compared_and_each_comparison_is_stricter():
    assert compare(pairs(0.2, 39), "1", "2", [], 0.004) is None
    first = compare(pairs(0.2, 40), "1", "2", [], 0.004)
    assert compare(pairs(0.2, 79), "1", "2", [first], 0.004) is None
    second = compare(pairs(0.2, 80), "1", "2", [first], 0.004)
    alone = compare(pairs(0.2, 80), "1", "2", [ShadowComparison("9", "1", 50, 1, 0, 0, 0, "")], 0.004)
    assert (second.use, alone.use) == (2, 1)
    assert second.low < alone.low
    assert second.gain == alone.gain


def test_the_challenger_scores_what_the_champion_did_and_lets_go_when_there_is_none(both, rows):
    ids = store_predictions(both.predictions_uri, rows, time=datetime.now(UTC) + timedelta(seconds=1))
    store_predictions(both.predictions_uri, rows, time=NOW - timedelta(days=1))
    follower = Shadow(both)
    assert (follower.step(), follower.step()) == (len(rows), 0)
    labels.add(both.predictions_uri, dict(zip(ids, rows[TARGET].tolist(), strict=True)))
    stored = shadow.labelled_pairs(both.predictions_uri, "1", "2").set_index("id").loc[ids, SHADOW]
    assert stored.to_numpy() == pytest.approx(challenger_scores(both, rows), abs=1e-4)
    with tracking.store(both) as store:
        store.client.delete_registered_model_alias(store.model_name, registry.CHALLENGER)
    assert (follower.step(), follower.scorer) == (0, None)


def test_an_empty_home_stays_empty(tmp_path, config):
    empty = config.model_copy(update={"home": tmp_path / "empty"})
    with pytest.raises(TrackingError, match="there is no MLflow store"):
        Shadow(empty).step()
    assert not (tmp_path / "empty" / "mlflow.db").exists()


@pytest.mark.slow
@pytest.mark.parametrize("on", [True, False])
def test_the_service_has_a_shadow_that_ends_with_it_unless_it_is_switched_off(both, rows, on):
    port = free_port()
    own = {"WINE_HOME": str(both.home), "WINE_SERVE_PORT": str(port), "WINE_SHADOW": str(on)}
    with running(["-m", "deployment.serve"], both.home / "serve.log", **own) as serve:
        wait_until(lambda: listens(port) or serve.poll() is not None, "make serve")
        wines = rows[FEATURES].head(20).to_dict("records")
        assert requests.post(f"http://127.0.0.1:{port}/predict", json=wines, timeout=30).json()["version"] == "1"
        if on:
            wait_until(lambda: shadow.count(both.predictions_uri, "2") == 20, "the scores in the shadow")
        children = [line for line in processes_at(both.home) if "deployment.shadow" in line]
        log = both.local / "shadow.log"
        assert log.exists() == on
        assert "version 2, engine: onnx" in log.read_text() if on else not children
        os.kill(serve.pid, signal.SIGTERM)
        serve.wait(60)
    wait_until(lambda: processes_at(both.home) == [], "the end of the shadow")


@pytest.fixture
def labelled(both, rows, monkeypatch, prefect_for_commands) -> Settings:
    """A home in which the challenger was better on the labels that came in."""
    monkeypatch.setenv("WINE_SERVE_PORT", str(free_port()))
    many = pd.concat([rows, few_sides()[0]], ignore_index=True)
    ids = store_predictions(both.predictions_uri, many, time=datetime.now(UTC) + timedelta(seconds=1), score=5.8)
    while Shadow(both).step():
        pass
    labels.add(both.predictions_uri, dict(zip(ids, many[TARGET].tolist(), strict=True)))
    return both


def monitor():
    now = datetime.now(UTC)
    return monitor_wine_quality(now - timedelta(hours=1), now + timedelta(hours=1), "shadowed")


@pytest.mark.slow
def test_monitoring_promotes_a_challenger_that_was_better_in_the_shadow(labelled):
    record = monitor()
    assert record.passed_comparison == record.shadow
    assert (record.shadow.version, record.shadow.champion, record.trigger, record.notify) == ("2", "1", "", True)
    with tracking.store(labelled) as store:
        champion = registry.champion(store)
        assert (str(champion.version), champion.tags[registry.REPLACED]) == ("2", "1")
        assert registry.challenger(store) is None
    assert f"approved: {record.shadow}." in champion.description


@pytest.mark.slow
def test_monitoring_leaves_the_shadow_alone_where_it_is_switched_off(labelled, monkeypatch):
    monkeypatch.setenv("WINE_SHADOW", "off")
    assert monitor().shadow is None
    with tracking.store(labelled) as store:
        assert str(registry.champion(store).version) == "1"


@pytest.mark.slow
def test_a_person_who_does_not_answer_keeps_the_challenger_one(labelled, monkeypatch):
    monkeypatch.setenv("WINE_APPROVAL", "manual")
    monkeypatch.setenv("WINE_APPROVAL_SECONDS", "4")
    with pytest.raises(Exception, match="version 2 was not approved within 4 seconds"):
        monitor()
    with tracking.store(labelled) as store:
        assert str(registry.champion(store).version) == "1"
        assert registry.challenger(store).tags["approval"] == "rejected"
