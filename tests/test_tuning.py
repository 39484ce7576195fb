"""The parts of a search: spaces, the objective and its early stopping, the finalists and the blend."""

import os

import numpy as np
import pandas as pd
import pytest
from hyperopt import hp
from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor
from sklearn.metrics import root_mean_squared_error

from wine_quality import sources, tuning
from wine_quality.errors import SearchError
from wine_quality.models import build, cross_predict, fit, map_folds, predict
from wine_quality.schema import TARGET
from wine_quality.splits import distinct_rows, folds
from wine_quality.tuning import Candidate, Objective, Trial


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return distinct_rows(sources.sample("a test").table).iloc[::40].reset_index(drop=True)


def trials_of(objective: Objective, *draws: dict) -> list[Trial]:
    results = [objective(draw) for draw in draws]
    return [
        Trial(number, Candidate(result["name"], result["params"]), result["loss"], "", {})
        for number, result in enumerate(results)
    ]


@pytest.mark.parametrize(
    ("space", "why"),
    [
        ({}, "is empty"),
        ({"grape": {}}, "unknown models: grape. Known models: mean, "),
        ({"svr": {"depth": hp.uniform("depth", 1, 2)}}, "unexpected keyword argument 'depth'"),
        ({"svr": {"C": hp.uniform("same", 1, 2), "gamma": hp.uniform("same", 1, 2)}}, "cannot be used"),
        ({"svr": {"C": hp.choice("none", [])}}, "cannot be used"),
    ],
)
def test_an_invalid_space_is_rejected(space, why):
    with pytest.raises(SearchError, match=why):
        tuning.hyperopt_space(space)


def test_a_choice_may_be_none_or_a_truth_value(rows):
    for drawn in (None, True, np.True_, "sqrt", np.int64(3)):
        assert tuning.plain(drawn) == drawn
    forest = {"name": "extra_trees", "max_depth": None, "bootstrap": np.True_, "n_estimators": 5}
    assert Objective(rows, 5)(forest)["status"] == "ok"


@pytest.mark.parametrize("draw", [{"name": "svr", "C": -1.0}, {"name": "xgboost", "max_depth": -3}])
def test_a_draw_that_the_library_rejects_is_a_failed_trial(draw, rows):
    result = Objective(rows, 5)(draw)
    assert result["status"] == "fail"
    assert result["error"].startswith(("InvalidParameterError: ", "XGBoostError: "))


def test_a_programming_error_is_raised(rows, monkeypatch):
    monkeypatch.setattr(tuning, "early_stopped_fold", lambda pipeline, learn, score, seed: learn.nowhere)
    with pytest.raises(AttributeError, match="nowhere"):
        Objective(rows, 5)({"name": "xgboost"})


def process_id(pipeline, learn, score) -> int:
    return os.getpid()


def test_trials_of_xgboost_have_the_same_losses_if_folds_run_in_other_processes(rows):
    objective, draws = Objective(rows, 5), [{"name": "xgboost", "max_depth": depth} for depth in (3, 6)]
    in_threads = [objective(draw) for draw in draws]
    with parallel_config("loky", n_jobs=2):
        assert os.getpid() not in map_folds(process_id, build("xgboost", 5), rows, objective.folds)
        assert [objective(draw) for draw in draws] == in_threads
    get_reusable_executor().shutdown(wait=True)
    assert {result["status"] for result in in_threads} == {"ok"}
    assert len({result["loss"] for result in in_threads}) == 2


def test_early_stopping_never_sees_the_rows_that_are_scored(rows, monkeypatch):
    seen, real = [], tuning.early_stopped_fold

    def spy(pipeline, learn, score, seed):
        seen.append((set(learn.index), set(score.index)))
        return real(pipeline, learn, score, seed)

    monkeypatch.setattr(tuning, "early_stopped_fold", spy)
    result = Objective(rows, 5)({"name": "xgboost", "max_depth": 3})
    scored = [set(score) for _, score in folds(rows, 5)]
    assert sorted(map(sorted, (score for _, score in seen))) == sorted(map(sorted, scored))
    assert all(learn == set(rows.index) - score for learn, score in seen)
    assert 1 <= result["params"]["n_estimators"] < tuning.ROUNDS


def test_early_stopping_monitors_rows_it_does_not_learn_from(rows):
    pipeline = build("xgboost", 5, n_estimators=1000, early_stopping_rounds=50)
    sizes, real = [], pipeline["model"].fit

    def spy(X, y, eval_set, **kwargs):
        sizes.append((len(X), len(eval_set[0][0])))
        return real(X, y, eval_set=eval_set, **kwargs)

    pipeline["model"].fit = spy
    scores, fitted = tuning.early_stopped_fold(pipeline, rows, rows.head(7), 5)
    ((grow, stop),) = sizes
    assert grow + stop == len(rows)
    assert stop == pytest.approx(0.15 * len(rows), abs=1)
    assert len(scores) == 7
    assert 0 <= fitted["model"].best_iteration < 1000


def test_forests_are_small_in_a_trial_and_of_full_size_as_finalists(rows, monkeypatch):
    sizes = []

    def spy(pipeline, *args):
        sizes.append(pipeline["model"].get_params().get("n_estimators"))
        return cross_predict(pipeline, *args)

    monkeypatch.setattr(tuning, "cross_predict", spy)
    objective = Objective(rows, 5)
    tuning.finalists(trials_of(objective, {"name": "extra_trees", "max_features": 0.5}), objective)
    assert sizes == [60, 300]


def test_a_finalist_that_equals_its_trial_is_not_fitted_again(rows, monkeypatch):
    calls = []
    monkeypatch.setattr(tuning, "cross_predict", lambda *args: calls.append(args) or cross_predict(*args))
    objective, draws = Objective(rows, 5), [{"name": "svr", "C": 1.0}, {"name": "svr", "C": 3.0}]
    trials = trials_of(objective, *draws)
    (finalist,) = tuning.finalists(trials, objective)
    assert len(calls) == 2
    assert finalist.rmse == min(trial.loss for trial in trials)
    (again,) = tuning.finalists(trials, Objective(rows, 5))
    assert len(calls) == 3
    assert (again.predicted == finalist.predicted).all()


def test_there_is_one_finalist_per_model_sorted_by_error_and_the_blend_is_no_worse(rows):
    draws = [{"name": "svr", "C": 1.0}, {"name": "svr", "C": 30.0}, {"name": "kernel_ridge"}, {"name": "linear"}]
    objective = Objective(rows, 5)
    trials = trials_of(objective, *draws)
    found = tuning.finalists(trials, objective)
    assert sorted(one.candidate.name for one in found) == ["kernel_ridge", "linear", "svr"]
    assert [one.rmse for one in found] == sorted(one.rmse for one in found)
    assert all(one.candidate == tuning.best(trials, one.candidate.name).candidate for one in found)

    mixed = tuning.blend(found, rows, 5)
    weights = dict(zip([name for name, _ in mixed["model"].estimators], mixed["model"].weights, strict=True))
    assert all(weight > 0 for weight in weights.values())
    together = sum(one.predicted * weights.get(one.candidate.name, 0) for one in found)
    assert root_mean_squared_error(rows[TARGET], together) <= found[0].rmse
    members = [predict(fit(build(one.candidate.name, 5, **one.candidate.params), rows), rows) for one in found]
    expected = sum(weights.get(one.candidate.name, 0) * score for one, score in zip(found, members, strict=True))
    assert predict(fit(mixed, rows), rows) == pytest.approx(expected / sum(weights.values()))
