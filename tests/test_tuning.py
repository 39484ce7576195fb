import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hyperopt import hp
from sklearn.metrics import root_mean_squared_error

from wine_quality import data, tuning
from wine_quality.errors import SearchError
from wine_quality.journal import Journal
from wine_quality.models import build, cross_predict, fit, predict
from wine_quality.schema import TARGET
from wine_quality.splits import distinct_wines, folds

SVR = {"svr": {"C": hp.loguniform("C", -1, 1)}}
HALF_BROKEN = {"svr": {"C": hp.uniform("C", -1, 1)}}


@pytest.fixture(scope="module")
def few_wines() -> pd.DataFrame:
    return distinct_wines(data.sample("a test").table).iloc[::40].reset_index(drop=True)


def what(trials):
    """Return of trials what must not hang on the clock."""
    return [(trial.number, trial.choice, trial.loss, trial.error, trial.drawn) for trial in trials]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_seed_makes_the_same_trials_and_another_seed_others(few_wines):
    first, second, other = (tuning.search(few_wines, 4, seed) for seed in (5, 5, 6))
    assert what(first) == what(second)
    assert what(first) != what(other)


def test_the_best_trial_has_the_lowest_loss(few_wines):
    trials = tuning.search(few_wines, 4, 5, searched=SVR)
    assert tuning.best(trials).loss == min(trial.loss for trial in trials)
    assert len({trial.loss for trial in trials}) == 4


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(few_wines, tmp_path, monkeypatch):
    def stop_after_three(trial):
        if trial.number == 2:
            raise KeyboardInterrupt

    path, told, tried = tmp_path / "kept.jsonl", [], []
    with pytest.raises(KeyboardInterrupt), Journal(path) as kept:
        tuning.search(few_wines, 24, 5, searched=SVR, kept=kept, tell=stop_after_three)
    assert len(lines_of(path)) == 3

    real = tuning.Objective.__call__
    monkeypatch.setattr(tuning.Objective, "__call__", lambda self, drawn: tried.append(drawn) or real(self, drawn))
    with Journal(path) as kept:
        resumed = tuning.search(few_wines, 24, 5, searched=SVR, kept=kept, tell=lambda trial: told.append(trial.number))
    assert len(tried) == 21
    assert told == list(range(24))
    assert what(resumed) == what(tuning.search(few_wines, 24, 5, searched=SVR))


@pytest.mark.slow
def test_a_killed_search_loses_no_finished_trial(few_wines, tmp_path):
    few_wines.to_pickle(tmp_path / "wines.pickle")
    path = tmp_path / "kept.jsonl"
    script = f"""
from pathlib import Path
import pandas as pd
from hyperopt import hp
from wine_quality import tuning
from wine_quality.journal import Journal
with Journal(Path({str(path)!r})) as kept:
    wines = pd.read_pickle({str(tmp_path / "wines.pickle")!r})
    tuning.search(wines, 500, 5, searched={{"svr": {{"C": hp.loguniform("C", -1, 1)}}}}, kept=kept)
"""
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ)
    while not path.exists() or path.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finished = path.read_text().count("\n")
    with Journal(path) as kept:
        resumed = tuning.search(few_wines, finished + 2, 5, searched=SVR, kept=kept)
    assert [line["trial"]["number"] for line in lines_of(path)] == list(range(finished + 2))
    assert what(resumed) == what(tuning.search(few_wines, finished + 2, 5, searched=SVR))


def test_fewer_trials_than_are_kept_are_returned_and_none_is_made(few_wines, tmp_path):
    path = tmp_path / "kept.jsonl"
    with Journal(path) as kept:
        three = tuning.search(few_wines, 3, 5, searched=SVR, kept=kept)
    before = path.read_bytes()
    with Journal(path) as kept:
        assert what(tuning.search(few_wines, 2, 5, searched=SVR, kept=kept)) == what(three)[:2]
    assert path.read_bytes() == before


def test_a_trial_that_raises_has_failed_and_the_search_goes_on(few_wines, tmp_path):
    path = tmp_path / "kept.jsonl"
    with Journal(path) as kept:
        tuning.search(few_wines, 5, 5, searched=HALF_BROKEN, kept=kept)
    with Journal(path) as kept:
        trials = tuning.search(few_wines, 8, 5, searched=HALF_BROKEN, kept=kept)
    failed = [trial for trial in trials if trial.loss is None]
    assert 0 < len(failed) < 8
    assert all("C" in trial.error and trial.choice.params["C"] <= 0 for trial in failed)
    assert all(trial.choice.params["C"] > 0 for trial in trials if trial.loss is not None)
    assert what(trials) == what(tuning.search(few_wines, 8, 5, searched=HALF_BROKEN))


def test_where_every_trial_fails_the_last_error_is_told(few_wines):
    with pytest.raises(SearchError, match=r"^all 2 trials failed, the last with: .*depth.*Mend the space"):
        tuning.search(few_wines, 2, 5, searched={"svr": {"depth": hp.uniformint("depth", 1, 2)}})


@pytest.mark.parametrize(
    ("evals", "seconds"), [(0, np.inf), (-3, np.inf), (2, 0), (2, -1.0), (2, np.nan)], ids=lambda value: str(value)
)
def test_a_search_of_nothing_is_refused_and_nothing_is_kept(few_wines, tmp_path, evals, seconds):
    with Journal(tmp_path / "kept.jsonl") as kept, pytest.raises(SearchError, match="at least one of each"):
        tuning.search(few_wines, evals, 5, cpu_seconds=seconds, kept=kept)
    assert (tmp_path / "kept.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("searched", "why"),
    [
        ({}, "is empty"),
        ({"grape": {}}, "names grape. Families are: mean, "),
        ({"svr": {"C": hp.uniform("same", 1, 2), "gamma": hp.uniform("same", 1, 2)}}, "cannot be drawn from"),
        ({"svr": {"C": hp.choice("none", [])}}, "cannot be drawn from"),
    ],
)
def test_an_impossible_space_is_refused(few_wines, searched, why):
    with pytest.raises(SearchError, match=why):
        tuning.search(few_wines, 2, 5, searched=searched)


def test_no_trial_begins_when_the_seconds_are_over(few_wines):
    assert len(tuning.search(few_wines, 50, 5, searched=SVR, cpu_seconds=1e-6)) == 1


def test_early_stopping_never_sees_the_wines_that_are_scored(few_wines, monkeypatch):
    seen, real = [], tuning.stopped_early

    def spy(pipeline, wines, seed, rounds):
        seen.append(set(wines.index))
        return real(pipeline, wines, seed, rounds)

    monkeypatch.setattr(tuning, "stopped_early", spy)
    result = tuning.Objective(few_wines, 5)({"name": "xgboost", "max_depth": 3})
    scored = [set(score) for _, score in folds(few_wines, 5)]
    assert sorted(map(sorted, seen)) == sorted(sorted(set(few_wines.index) - part) for part in scored)
    assert 1 <= result["params"]["n_estimators"] < tuning.ROUNDS


def test_early_stopping_watches_wines_it_does_not_learn_from(few_wines):
    rounds = []
    pipeline = build("xgboost", 5, n_estimators=1000, early_stopping_rounds=50)
    learnt, real = [], pipeline["model"].fit

    def spy(X, y, eval_set, **kwargs):
        learnt.append((len(X), len(eval_set[0][0])))
        return real(X, y, eval_set=eval_set, **kwargs)

    pipeline["model"].fit = spy
    tuning.stopped_early(pipeline, few_wines, 5, rounds)
    ((grow, stop),) = learnt
    assert grow + stop == len(few_wines)
    assert stop == pytest.approx(0.15 * len(few_wines), abs=1)
    assert len(rounds) == 1


def test_forests_are_small_in_a_trial_and_of_full_size_in_the_finals(few_wines, monkeypatch):
    sizes, real = [], cross_predict

    def spy(pipeline, *args, **kwargs):
        sizes.append(pipeline["model"].get_params().get("n_estimators"))
        return real(pipeline, *args, **kwargs)

    monkeypatch.setattr(tuning, "cross_predict", spy)
    trials = tuning.search(few_wines, 1, 5, searched={"extra_trees": {"max_features": hp.uniform("share", 0.3, 1)}})
    tuning.finalists(trials, few_wines, 5)
    assert sizes == [60, 300]


def test_finalists_are_one_a_family_the_best_first_and_the_blend_is_no_worse(few_wines):
    searched = {name: tuning.families()[name] for name in ("svr", "kernel_ridge")} | {"linear": {}}
    trials = tuning.search(few_wines, 9, 5, searched=searched)
    found = tuning.finalists(trials, few_wines, 5)
    assert len({one.choice.name for one in found}) == len(found) > 1
    assert [one.rmse for one in found] == sorted(one.rmse for one in found)
    assert found[0].choice == tuning.best(trials, found[0].choice.name).choice

    mixed = tuning.blend(found, few_wines, 5)
    weights = dict(zip([name for name, _ in mixed["model"].estimators], mixed["model"].weights, strict=True))
    assert all(weight > 0 for weight in weights.values())
    together = sum(one.predicted * weights.get(one.choice.name, 0) for one in found)
    assert root_mean_squared_error(few_wines[TARGET], together) <= found[0].rmse
    scores = predict(fit(mixed, few_wines), few_wines)
    members = [predict(fit(build(one.choice.name, 5, **one.choice.params), few_wines), few_wines) for one in found]
    expected = sum(weights.get(one.choice.name, 0) * score for one, score in zip(found, members, strict=True))
    assert scores == pytest.approx(expected / sum(weights.values()))
