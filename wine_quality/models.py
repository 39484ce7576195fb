"""The models by name, with their pipelines and search spaces."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from hyperopt import hp
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits
from xgboost import XGBRegressor

from wine_quality.kernel_ridge import ExponentialKernelRidge
from wine_quality.preprocessing import engineered_steps, logarithms, normal_scores, preprocessor
from wine_quality.schema import FEATURES, TARGET
from wine_quality.splits import Fold

FALSE_ALARM = "`sklearn.utils.parallel.delayed` should be used with"

Evaluate = Callable[[Pipeline, pd.DataFrame, pd.DataFrame], Any]


@dataclass(frozen=True)
class Model:
    """An estimator class, the parameters that differ from the library's defaults, and the search space if there is one.

    The parameters of the models named `…_tuned` and `…_engineered`, and those that a search space fixes, were tuned by
    hand on the training set. `features` is the default of `build`. `scaler` puts the columns on one scale, for models
    that work with distances. `side_by_side` fits the folds in parallel, unless the model needs much memory.
    """

    estimator: Callable[..., Any]
    params: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    features: str = "measured"
    scaler: Callable[[], Any] | None = None
    side_by_side: bool = True


def features_of(name: str) -> Any:
    """Return hyperopt's choice of a model's features: the measured ones, or also the derived ones of `chemistry`."""
    return hp.choice(f"{name}.features", ["measured", "engineered"])


XGBOOST_SHARES = {"subsample": 0.7, "colsample_bytree": 0.6}  # of the rows and columns that a tree may use
MODELS: dict[str, Model] = {
    "mean": Model(DummyRegressor),
    "linear": Model(LinearRegression),
    "decision_tree": Model(DecisionTreeClassifier),
    "k_neighbors": Model(KNeighborsRegressor),
    "random_forest": Model(RandomForestRegressor),
    "random_forest_classifier": Model(RandomForestClassifier),
    "extra_trees_classifier": Model(ExtraTreesClassifier),
    "extra_trees": Model(
        ExtraTreesRegressor,
        space={
            "features": features_of("extra_trees"),
            "max_features": hp.quniform("extra_trees.max_features", 0.2, 1.0, 0.1),
            "min_samples_split": hp.uniformint("extra_trees.min_samples_split", 2, 6),
        },
    ),
    "extra_trees_tuned": Model(ExtraTreesRegressor, {"n_estimators": 300, "max_features": 0.5}),
    "xgboost": Model(
        XGBRegressor,
        {"n_jobs": 1},
        {
            "features": features_of("xgboost"),
            "max_depth": hp.uniformint("xgboost.max_depth", 3, 12),
            "learning_rate": hp.loguniform("xgboost.learning_rate", np.log(0.02), np.log(0.2)),
            "min_child_weight": hp.uniformint("xgboost.min_child_weight", 1, 10),
            **XGBOOST_SHARES,
        },
    ),
    "xgboost_tuned": Model(
        XGBRegressor,
        {"n_estimators": 250, "learning_rate": 0.04, "max_depth": 7, "n_jobs": 1} | XGBOOST_SHARES,
    ),
    "svr": Model(
        SVR,
        space={
            "features": features_of("svr"),
            "C": hp.loguniform("svr.C", np.log(0.3), np.log(3)),
            "gamma": hp.loguniform("svr.gamma", np.log(0.02), np.log(0.2)),
            "epsilon": 0.3,
        },
        scaler=normal_scores,
    ),
    "kernel_ridge": Model(
        ExponentialKernelRidge,
        space={
            "features": features_of("kernel_ridge"),
            "alpha": hp.loguniform("kernel_ridge.alpha", np.log(0.05), np.log(1)),
            "length_scale": hp.loguniform("kernel_ridge.length_scale", np.log(3), np.log(30)),
        },
        scaler=normal_scores,
        side_by_side=False,
    ),
    "extra_trees_engineered": Model(
        ExtraTreesRegressor, {"n_estimators": 500, "max_features": 0.5}, features="engineered"
    ),
    "kernel_ridge_engineered": Model(
        ExponentialKernelRidge,
        {"alpha": 0.25, "length_scale": 7},
        features="engineered",
        scaler=logarithms,
        side_by_side=False,
    ),
}
BLEND, MEMBERS = "blend", ["extra_trees_engineered", "kernel_ridge_engineered"]  # the plain mean of two models
BASELINES = [*(name for name in MODELS if name not in ("svr", "kernel_ridge")), BLEND]


def build(name: str, seed: int, features: str | None = None, **params: Any) -> Pipeline:
    """Return the unfitted pipeline of a model in `MODELS`, with its preprocessing; `params` override those there.

    `features` is `measured`, or `engineered` for the measurements and the columns of `chemistry`; the default is that
    of the model. `BLEND` takes neither argument.
    """
    if name == BLEND:
        return weighted_mean([(member, build(member, seed)) for member in MEMBERS])
    model = MODELS[name]
    estimator = model.estimator(**{**model.params, **params})
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    engineered = (model.features if features is None else features) == "engineered"
    before = engineered_steps() if engineered else [("preprocess", preprocessor())]
    scale = [("scale", model.scaler())] if model.scaler else []
    return Pipeline([*before, *scale, ("model", estimator)])


def weighted_mean(members: list[tuple[str, Pipeline]], weights: list[float] | None = None) -> Pipeline:
    """Return the unfitted weighted mean of pipelines, or their plain mean if there are no weights."""
    return Pipeline([("model", VotingRegressor(members, weights=weights, n_jobs=1))])  # pyright: ignore[reportArgumentType]


def shares(pipeline: Pipeline) -> list[tuple[float, Pipeline]]:
    """Return the members of a fitted blend, each with its share of the prediction; any other pipeline has share 1."""
    model: Any = pipeline["model"]
    if not isinstance(model, VotingRegressor):
        return [(1.0, pipeline)]
    members: list[Any] = list(model.estimators_)
    weights = np.ones(len(members)) if model.weights is None else np.array(model.weights)
    return list(zip((weights / weights.sum()).tolist(), members, strict=True))


def default_params(name: str) -> dict[str, Any]:
    """Return the parameters of a model in `MODELS`, or of the members of the blend, that differ from the defaults."""
    if name != BLEND:
        return MODELS[name].params
    return {f"{member}.{key}": value for member in MEMBERS for key, value in MODELS[member].params.items()}


def fit(pipeline: Pipeline, rows: pd.DataFrame) -> Pipeline:
    """Fit a pipeline on a tidy table, a forest on all cores, and return it set to predict on one core.

    If several cores summed the trees, predictions would differ in the last bit from run to run, and for a few rows one
    core is faster. XGBoost is fitted on one core (`MODELS`), because its threads wait by spinning: beside a busy
    program, several threads are many times slower than one.
    """
    set_cores(pipeline, -1)
    with sklearn_threads():
        pipeline.fit(rows[FEATURES], rows[TARGET])
    set_cores(pipeline, 1)
    return pipeline


@contextmanager
def sklearn_threads() -> Iterator[None]:
    """Let several threads use scikit-learn, and restore the warning filters afterwards.

    Each thread empties the list of filters for a moment. If another thread reads the list at that time, scikit-learn
    gives a warning about a wrong call (its issue 32631). There is none, and no filter can hide it, so it isn't shown.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_others(message: Warning | str, *where: Any, **options: Any) -> None:
            if not str(message).startswith(FALSE_ALARM):
                show(message, *where, **options)

        warnings.showwarning = show_others
        yield


def set_cores(pipeline: Pipeline, cores: int) -> None:
    """Set the number of cores of the models in a pipeline that use many, such as forests."""
    model: Any = pipeline["model"]
    if isinstance(model, VotingRegressor):
        for member in [*dict(model.estimators).values(), *getattr(model, "estimators_", [])]:
            set_cores(member, cores)
    elif threaded(pipeline):
        pipeline.set_params(model__n_jobs=cores)


def threaded(pipeline: Pipeline) -> bool:
    """Return whether a model, such as a forest, uses many cores by itself when it is fitted."""
    return pipeline["model"].get_params().get("n_jobs", 1) != 1


def predict(pipeline: Pipeline, rows: pd.DataFrame) -> np.ndarray:
    """Return the predicted score of each row, float64 of shape (n rows,)."""
    return np.asarray(pipeline.predict(rows[FEATURES]), dtype="float64")


def fit_predict(pipeline: Pipeline, learn: pd.DataFrame, score: pd.DataFrame) -> np.ndarray:
    """Fit a pipeline on some rows, and return its predictions for other rows."""
    return predict(fit(pipeline, learn), score)


def map_folds(
    evaluate: Evaluate, pipeline: Pipeline, rows: pd.DataFrame, folds: list[Fold], side_by_side: bool = True
) -> list[Any]:
    """For each fold, call `evaluate` with a clone of a pipeline, the rows to fit on and the rows to score, in threads.

    While folds are fitted in parallel, linear algebra uses one core in each. For a model that uses many cores by
    itself, the folds are fitted one after the other.
    """
    side_by_side = side_by_side and not threaded(pipeline)
    jobs = (delayed(evaluate)(clone(pipeline), rows.iloc[learn], rows.iloc[score]) for learn, score in folds)
    with threadpool_limits(1 if side_by_side else None), sklearn_threads():
        return list(Parallel(n_jobs=-1 if side_by_side else 1, prefer="threads")(jobs))


def in_row_order(scores: list[np.ndarray], folds: list[Fold], rows: int) -> np.ndarray:
    """Return the scores of all folds as one array, in the order of the rows."""
    ordered = np.full(rows, np.nan)
    for (_, score), fold in zip(folds, scores, strict=True):
        ordered[score] = fold
    return ordered


def cross_predict(pipeline: Pipeline, rows: pd.DataFrame, folds: list[Fold], side_by_side: bool = True) -> np.ndarray:
    """Return the cross-validated prediction for each row, by a model that was fitted on the other folds."""
    return in_row_order(map_folds(fit_predict, pipeline, rows, folds, side_by_side), folds, len(rows))
