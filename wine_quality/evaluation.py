"""Evaluation on the gate set: errors by slice, permutation importance, partial dependence."""

from dataclasses import dataclass

import joblib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.pipeline import Pipeline

from wine_quality.intervals import bounds
from wine_quality.metrics import scores
from wine_quality.models import predict, sklearn_threads
from wine_quality.schema import FEATURES, MEASUREMENTS, TARGET, TYPE
from wine_quality.slices import error_table

SHUFFLES = 5  # of each feature
MANY_ROWS = 200  # for the importance, so that a training run doesn't wait for it
STRONGEST, GRID, SAMPLE = 4, 10, 100  # of a partial dependence: features, values of each, and rows to average over


@dataclass(frozen=True)
class Evaluation:
    """A model's evaluation on the gate set: `scores` from `metrics.scores`, and `slices` from `slices.error_table`.

    `importance` has a row for each feature, the most important first: by how much shuffling it raises the RMSE
    (`mean`), and how much that varies between shuffles (`std`), in points of quality. `dependence` is a figure of the
    partial dependence on the most important features.
    """

    scores: dict[str, float]
    slices: pd.DataFrame
    importance: pd.DataFrame
    dependence: Figure


def evaluate(pipeline: Pipeline, interval: Pipeline, gate_set: pd.DataFrame, seed: int, column: str = "") -> Evaluation:
    """Evaluate a model and its intervals on the gate set; `column` adds further slices."""
    predicted = predict(pipeline, gate_set)
    ends = bounds(predicted, predict(interval, gate_set))
    importance = feature_importance(pipeline, gate_set, seed)
    return Evaluation(
        scores(gate_set[TARGET].to_numpy(), predicted),
        error_table(gate_set, predicted, ends, seed, column),
        importance,
        partial_dependence(pipeline, gate_set, list(importance.index[:STRONGEST]), seed),
    )


def feature_importance(pipeline: Pipeline, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return by how much the RMSE rises if a feature is shuffled (Breiman, 2001, Random Forests, section 10).

    At most 200 of the rows are used.
    """
    rows = rows.sample(min(MANY_ROWS, len(rows)), random_state=seed)
    with joblib.parallel_config("threading", n_jobs=-1), sklearn_threads():
        rise = permutation_importance(
            pipeline, rows[FEATURES], rows[TARGET], scoring="neg_root_mean_squared_error", n_repeats=SHUFFLES,
            random_state=seed,
        )  # fmt: skip
    table = pd.DataFrame({"mean": rise["importances_mean"], "std": rise["importances_std"]}, index=FEATURES)
    return table.sort_values("mean", ascending=False)


def partial_dependence(pipeline: Pipeline, rows: pd.DataFrame, features: list[str], seed: int) -> Figure:
    """Return a curve for each feature: the mean prediction for some rows if the feature had a given value in all rows.

    Friedman (2001), Greedy Function Approximation, section 8.2. The grid goes from the 5th to the 95th percentile.
    """
    sample = rows[FEATURES].sample(min(SAMPLE, len(rows)), random_state=seed)
    sample = sample.fillna(sample[list(MEASUREMENTS)].mean())
    figure = Figure(figsize=(3 * len(features), 3.2), layout="constrained")
    PartialDependenceDisplay.from_estimator(
        pipeline, sample.astype({name: "float64" for name in FEATURES if name != TYPE}), features,
        categorical_features=[TYPE], grid_resolution=GRID, n_cols=len(features), ax=figure.subplots(),
    )  # fmt: skip
    figure.suptitle(f"Partial dependence of the score, {len(sample)} rows of the gate set")
    return figure


def importance_figure(importance: pd.DataFrame, title: str) -> Figure:
    """Return a bar chart of the importance of each feature, the most important on top, with error bars."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes, weakest_first = figure.subplots(), importance.iloc[::-1]
    places = np.arange(len(importance))
    axes.barh(places, weakest_first["mean"], xerr=weakest_first["std"], color="#9ecae1", ecolor="#d55e00", capsize=3)
    axes.set(
        yticks=places, yticklabels=weakest_first.index, xlabel="by how much shuffling it raises the RMSE", title=title
    )
    return figure
