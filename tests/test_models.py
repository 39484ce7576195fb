import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process.kernels import Matern
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVR
from sklearn.utils import parallel
from xgboost import XGBRegressor

from wine_quality import sources
from wine_quality.comparison import refitted_predictions
from wine_quality.evaluation import feature_importance
from wine_quality.kernel_ridge import ExponentialKernelRidge
from wine_quality.models import (
    BASELINES,
    BLEND,
    MEMBERS,
    MODELS,
    build,
    cross_predict,
    fit,
    map_folds,
    predict,
    shares,
    weighted_mean,
)
from wine_quality.preprocessing import preprocessor
from wine_quality.schema import FEATURES, MEASUREMENTS, TARGET
from wine_quality.splits import distinct_rows, folds


@pytest.fixture(scope="module")
def some_rows() -> pd.DataFrame:
    return distinct_rows(sources.sample("a test").table).iloc[::20].reset_index(drop=True)


def test_red_is_one_white_is_zero_and_an_unknown_type_is_rejected(wines):
    fitted = preprocessor().fit(wines[FEATURES])
    encoded = fitted.transform(wines[FEATURES])
    assert encoded.shape == (len(wines), 12)
    assert encoded[:, 0].tolist() == (wines["type"] == "red").astype(float).tolist()
    with pytest.raises(ValueError, match="unknown categories"):
        fitted.transform(wines.assign(type="rosé")[FEATURES])


def test_a_blank_gets_the_mean_of_the_rows_fitted_on_and_not_of_those_scored(wines):
    fitted_on = wines.assign(pH=[3.0, 3.2, *[np.nan] * (len(wines) - 2)])
    scored = wines.assign(pH=[np.nan, *[3.9] * (len(wines) - 1)])
    column = 1 + list(MEASUREMENTS).index("pH")
    assert preprocessor().fit(fitted_on[FEATURES]).transform(scored[FEATURES])[0, column] == pytest.approx(3.1)


@pytest.mark.parametrize("name", [*MODELS, BLEND])
def test_the_same_seed_gives_bit_identical_predictions_and_another_seed_another_model(name, some_rows):
    first, second, other = (predict(fit(build(name, s), some_rows.iloc[::2]), some_rows) for s in (3, 3, 4))
    assert np.array_equal(first, second)
    assert first.dtype == "float64"
    assert first.shape == (len(some_rows),)
    if name in ("random_forest", "extra_trees", "xgboost_tuned", BLEND):
        assert not np.array_equal(first, other)


def test_cross_validation_scores_every_row_by_a_model_that_was_not_fitted_on_it(some_rows):
    predicted = cross_predict(build("decision_tree", 1), some_rows, folds(some_rows, 1))
    memory = predict(fit(build("decision_tree", 1), some_rows), some_rows)
    assert (memory == some_rows[TARGET]).all()
    assert (predicted == some_rows[TARGET]).mean() < 0.8


def test_a_model_has_its_librarys_defaults_unless_its_name_says_tuned_or_engineered():
    for name, model in MODELS.items():
        tuned = model.params.keys() - {"n_jobs"}  # how many cores: it changes no prediction
        assert bool(tuned) == name.endswith(("_tuned", "_engineered"))
    assert [name for name in BASELINES if name.endswith("_tuned")] == ["extra_trees_tuned", "xgboost_tuned"]
    for plain in ("extra_trees", "xgboost"):
        assert plain in BASELINES
        assert MODELS[plain].estimator is MODELS[f"{plain}_tuned"].estimator
    defaults = {"extra_trees": ExtraTreesRegressor(random_state=1), "xgboost": XGBRegressor(random_state=1, n_jobs=1)}
    for name, model in {**defaults, "svr": SVR()}.items():
        assert build(name, 1)["model"].get_params() == model.get_params()
    ridge = build("kernel_ridge", 1)["model"]
    assert (ridge.alpha, ridge.length_scale) == (KernelRidge().alpha, Matern().length_scale)


def test_kernel_ridge_predicts_as_scikit_learns_does():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(50, 4)), rng.normal(5, 1, 50)
    theirs = KernelRidge(alpha=0.3, kernel=Matern(2.0, nu=0.5)).fit(X[:40], y[:40] - y[:40].mean())
    expected = theirs.predict(X[40:]) + y[:40].mean()
    assert ExponentialKernelRidge(0.3, 2.0).fit(X[:40], y[:40]).predict(X[40:]) == pytest.approx(expected)


def test_a_blend_is_the_plain_mean_of_its_members_each_fitted_on_all_cores_and_predicting_on_one(some_rows):
    blend = fit(build(BLEND, 1), some_rows)
    members = [predict(fit(build(name, 1), some_rows), some_rows) for name in MEMBERS]
    assert predict(blend, some_rows) == pytest.approx(np.mean(members, axis=0))
    assert [share for share, _ in shares(blend)] == [0.5, 0.5]
    forest = shares(blend)[0][1]["model"]
    assert (forest.n_jobs, forest.n_estimators) == (1, 500)


def test_the_shares_of_a_blend_are_its_weights_and_any_other_model_has_share_one(some_rows):
    linear = build("linear", 1)
    mixed = fit(weighted_mean([("a", linear), ("b", build("mean", 1))], [3.0, 1.0]), some_rows)
    assert [share for share, _ in shares(mixed)] == [0.75, 0.25]
    assert shares(linear) == [(1.0, linear)]


def test_given_parameters_override_hand_tuned_ones():
    assert build("extra_trees_tuned", 1, n_estimators=7)["model"].get_params()["n_estimators"] == 7
    assert build("extra_trees_tuned", 1)["model"].get_params()["n_estimators"] == 300


def test_threads_that_empty_the_warning_filters_raise_no_false_alarm_and_hide_no_other_warning(some_rows):
    def evaluate(*_):
        with warnings.catch_warnings():
            warnings.resetwarnings()  # as each thread of scikit-learn does for a moment
            warnings.warn("a real one", RuntimeWarning, stacklevel=1)
            return parallel.Parallel()([parallel.delayed(abs)(-1)])

    filters = list(warnings.filters)
    with pytest.warns(RuntimeWarning, match="a real one") as given:
        assert map_folds(evaluate, build("linear", 1), some_rows, folds(some_rows, 1)) == [[1]] * 5
    assert {str(one.message) for one in given} == {"a real one"}
    assert warnings.filters == filters


@pytest.mark.parametrize(
    "work",
    [lambda forest, rows: refitted_predictions(forest, rows, rows, 1), lambda *both: feature_importance(*both, 1)],
    ids=["refits", "importance"],
)
def test_work_in_threads_leaves_the_warning_filters_as_they_were(work, some_rows):
    forest, filters = fit(build("extra_trees", 1, n_estimators=100), some_rows), list(warnings.filters)
    work(forest, some_rows)
    assert warnings.filters == filters
