"""A name for each model, the pipeline behind the name, and the space that is searched for its parameters."""

from collections.abc import Callable
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
)
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBRegressor

from wine_quality.preprocessing import preprocessor
from wine_quality.schema import FEATURES, TARGET


@dataclass(frozen=True)
class Model:
    """An estimator class, the parameters it is built with, and its search space (empty where it is not searched)."""

    estimator: Callable[..., Any]
    params: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)


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
        {"n_estimators": 300, "max_features": 0.5},
        {
            "max_features": hp.quniform("extra_trees.max_features", 0.3, 1.0, 0.1),
            "min_samples_split": hp.uniformint("extra_trees.min_samples_split", 2, 6),
        },
    ),
    "xgboost": Model(
        XGBRegressor,
        {
            "n_estimators": 250,
            "learning_rate": 0.04,
            "max_depth": 7,
            "subsample": 0.7,
            "colsample_bytree": 0.6,
            "n_jobs": 1,
        },
        {
            "max_depth": hp.uniformint("xgboost.max_depth", 4, 10),
            "learning_rate": hp.loguniform("xgboost.learning_rate", np.log(0.02), np.log(0.1)),
            "min_child_weight": hp.uniformint("xgboost.min_child_weight", 1, 8),
        },
    ),
}


def build(name: str, seed: int, **params: Any) -> Pipeline:
    """Return the unfitted pipeline of a model, preprocessing inside.

    Parameters
    ----------
    name : str
        A key of `MODELS`.
    seed : int
        Set wherever the estimator draws at random.
    **params
        Parameters of the estimator, over those of `MODELS`.
    """
    model = MODELS[name]
    estimator = model.estimator(**{**model.params, **params})
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    return Pipeline([("preprocess", preprocessor()), ("model", estimator)])


def fit(pipeline: Pipeline, wines: pd.DataFrame) -> Pipeline:
    """Fit a pipeline on a tidy table, a forest on all cores, and return it set to predict on one.

    Trees grown side by side are the same trees; their predictions summed side by side differ in the last bit from run
    to run, and for a few wines one core is also the faster. XGBoost stays on one (`MODELS`): its threads wait by
    spinning, and a second busy program makes them many times slower than a single one.
    """
    threaded = pipeline["model"].get_params().get("n_jobs", 1) is None
    if threaded:
        pipeline.set_params(model__n_jobs=-1)
    pipeline.fit(wines[FEATURES], wines[TARGET])
    if threaded:
        pipeline.set_params(model__n_jobs=1)
    return pipeline


def predict(pipeline: Pipeline, wines: pd.DataFrame) -> np.ndarray:
    """Return the predicted score of each wine, float64 of shape (n wines,)."""
    return np.asarray(pipeline.predict(wines[FEATURES]), dtype="float64")


def cross_predict(pipeline: Pipeline, wines: pd.DataFrame, parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return a score for each wine by a model that never saw it: fitted on the rest, the folds side by side."""

    def fold_scores(fit_rows: np.ndarray, score_rows: np.ndarray) -> np.ndarray:
        return predict(fit(clone(pipeline), wines.iloc[fit_rows]), wines.iloc[score_rows])

    scores = np.full(len(wines), np.nan)
    predicted = Parallel(n_jobs=-1, prefer="threads")(delayed(fold_scores)(*part) for part in parts)
    for (_, score_rows), fold in zip(parts, predicted, strict=True):
        scores[score_rows] = fold
    return scores
