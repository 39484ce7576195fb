"""The parts of a search: the space, the cross-validated loss of a candidate, the finalists, and their blend."""

import time
from dataclasses import dataclass, field
from functools import partial
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd
from hyperopt import STATUS_FAIL, STATUS_OK, fmin, hp, tpe
from hyperopt.exceptions import DuplicateLabel
from scipy.optimize import nnls
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from wine_quality.errors import SearchError
from wine_quality.models import (
    BLEND,
    MEMBERS,
    MODELS,
    build,
    cross_predict,
    in_row_order,
    map_folds,
    predict,
    weighted_mean,
)
from wine_quality.schema import FEATURES, TARGET
from wine_quality.splits import folds

SEARCH_TREES, FINAL_TREES = 60, 300  # extra trees
ROUNDS, PATIENCE, STOP_SHARE = 1000, 50, 0.15  # XGBoost's early stopping

SearchSpace = dict[str, dict[str, Any]]  # the parameters to search, by model name


@dataclass(frozen=True)
class Candidate:
    """A model's name and its parameters, which override those of `MODELS`."""

    name: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One evaluation of a search; `number` counts from 0, in the order of the draws.

    `candidate` includes the number of rounds if XGBoost stopped early. `loss` is the RMSE over the folds, or None if
    the trial failed; `error` then gives the reason. `draw` is hyperopt's own record (`misc.vals`), from which a search
    resumes. `cpu_seconds` is the CPU time of the process that evaluated it.
    """

    number: int
    candidate: Candidate
    loss: float | None
    error: str
    draw: dict[str, list[float]] = field(repr=False)
    cpu_seconds: float = field(default=0.0, repr=False, compare=False)


def default_space() -> SearchSpace:
    """Return the search space of each model in `MODELS` that has one."""
    return {name: model.space for name, model in MODELS.items() if model.space}


def hyperopt_space(space: SearchSpace) -> Any:
    """Return a search space as a hyperopt expression: the choice of a model, and the parameters of each model.

    Raise `SearchError` if it is empty, names an unknown model or parameter, or uses a label twice.
    """
    if not space:
        raise SearchError("the search space is empty. Give it at least one model.")
    if unknown := sorted(set(space) - set(MODELS)):
        known = f"Known models: {', '.join(MODELS)}."
        raise SearchError(f"the search space has unknown models: {', '.join(unknown)}. {known}")
    try:
        for name, params in space.items():
            build(name, 0, **params)
        expression = hp.choice("family", [{"name": name, **params} for name, params in space.items()])
        fmin(lambda draw: 0, expression, tpe.suggest, 1, rstate=np.random.default_rng(0), verbose=False)
    except (DuplicateLabel, ValueError, TypeError, IndexError) as error:
        raise SearchError(f"the search space cannot be used: {error}. Fix its parameters, ranges or labels.") from error
    return expression


def best(trials: list[Trial], name: str | None = None) -> Trial:
    """Return the trial with the lowest loss, of one model if `name` is given; if several are equal, the first."""
    return min(
        (trial for trial in trials if trial.loss is not None and name in (None, trial.candidate.name)),
        key=lambda trial: trial.loss or 0.0,
    )


class Objective:
    """The objective of a search: the RMSE of a candidate over five folds, in the form that hyperopt expects.

    In a trial, extra trees have 60 trees, not 300: that is enough to recognise good parameters, in a fifth of the time.
    XGBoost adds up to 1,000 trees and stops when 50 more have not helped on 15 % of the training rows, set aside for
    that. Predictions over the folds are computed once for each candidate, because a trial may become a finalist without
    a change; they stay in the process that computed them. Linear algebra uses one thread, because with another number
    of threads the last bits of a loss would differ.
    """

    def __init__(self, train: pd.DataFrame, seed: int) -> None:
        self.train, self.seed, self.folds = train, seed, folds(train, seed)
        self.predicted: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to send to another process: everything except the predictions."""
        return {**self.__dict__, "predicted": {}}

    def __call__(self, draw: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a draw as hyperopt expects it, with the candidate that was evaluated."""
        params = {key: plain(value) for key, value in draw.items() if key != "name"}
        candidate = with_trees(Candidate(draw["name"], params), SEARCH_TREES)
        result = {"name": candidate.name, "params": candidate.params, "error": ""}
        try:
            loss, rounds = self.rmse(candidate)
        except ValueError as error:  # includes scikit-learn's InvalidParameterError, XGBoostError and LinAlgError
            return result | {"status": STATUS_FAIL, "error": shorten(f"{type(error).__name__}: {error}", 500)}
        return result | {"status": STATUS_OK, "loss": loss, "params": {**candidate.params, **rounds}}

    def rmse(self, candidate: Candidate) -> tuple[float, dict[str, int]]:
        """Return the RMSE over the folds, and the number of rounds if the model stopped early."""
        actual = self.train[TARGET]
        if candidate.name != "xgboost":
            return root_mean_squared_error(actual, self.predictions(candidate)), {}
        early_stopping = {"n_estimators": ROUNDS, "early_stopping_rounds": PATIENCE}
        pipeline = build(candidate.name, self.seed, **{**early_stopping, **candidate.params})
        outcomes = map_folds(partial(early_stopped_fold, seed=self.seed), pipeline, self.train, self.folds)
        predicted = in_row_order([scores for scores, _ in outcomes], self.folds, len(self.train))
        rounds = int(np.median([fitted["model"].best_iteration + 1 for _, fitted in outcomes]))
        return root_mean_squared_error(actual, predicted), {"n_estimators": rounds}

    def predictions(self, candidate: Candidate) -> np.ndarray:
        """Return the cross-validated prediction for each row, shape (n rows,)."""
        if candidate.name == BLEND:
            return np.mean([self.predictions(Candidate(member, {})) for member in MEMBERS], axis=0)
        key = repr((candidate.name, sorted(candidate.params.items())))
        if key not in self.predicted:
            pipeline = build(candidate.name, self.seed, **candidate.params)
            side_by_side = MODELS[candidate.name].side_by_side
            with threadpool_limits(1):
                self.predicted[key] = cross_predict(pipeline, self.train, self.folds, side_by_side)
        return self.predicted[key]


def evaluate(objective: Objective, draw: dict[str, Any]) -> tuple[dict[str, Any], float, float]:
    """Return the result of a draw, and the elapsed and the CPU seconds that it took: one unit of work for an engine."""
    started, cpu = time.monotonic(), time.process_time()
    result = objective(draw)
    return result, time.monotonic() - started, time.process_time() - cpu


def early_stopped_fold(
    pipeline: Pipeline, learn: pd.DataFrame, score: pd.DataFrame, seed: int
) -> tuple[np.ndarray, Pipeline]:
    """Fit XGBoost until its error on held-out training rows stops falling; return the predictions and the pipeline."""
    parts: list[Any] = train_test_split(learn, test_size=STOP_SHARE, random_state=seed)
    grow, stop = parts
    before: Pipeline = pipeline[:-1].fit(grow[FEATURES])
    watched = [(before.transform(stop[FEATURES]), stop[TARGET])]
    pipeline["model"].fit(before.transform(grow[FEATURES]), grow[TARGET], eval_set=watched, verbose=False)
    return predict(pipeline, score), pipeline


def with_trees(candidate: Candidate, trees: int) -> Candidate:
    """Return a candidate of extra trees with that many trees, and any other candidate unchanged."""
    if candidate.name != "extra_trees":
        return candidate
    return Candidate(candidate.name, {**candidate.params, "n_estimators": trees})


def plain(value: Any) -> Any:
    """Return a drawn value as a built-in Python type, floats rounded to four decimals."""
    if value is None or isinstance(value, str | bool | np.bool_):
        return value
    return round(float(value), 4) if isinstance(value, float) else int(value)


@dataclass(frozen=True)
class Finalist:
    """The best candidate of a model at full size, with its cross-validated prediction for each row."""

    candidate: Candidate
    predicted: np.ndarray
    rmse: float


def finalists(trials: list[Trial], objective: Objective) -> list[Finalist]:
    """Return the best candidate of each model, sorted by their error at full size on the folds of the objective.

    A comparison of the trials themselves would be unfair to forests, which are small in a trial.
    """
    result, actual = [], objective.train[TARGET]
    for name in sorted({trial.candidate.name for trial in trials if trial.loss is not None}):
        candidate = with_trees(best(trials, name).candidate, FINAL_TREES)
        predicted = objective.predictions(candidate)
        result.append(Finalist(candidate, predicted, float(root_mean_squared_error(actual, predicted))))
    return sorted(result, key=lambda finalist: finalist.rmse)


def blend(models: list[Finalist], train: pd.DataFrame, seed: int) -> Pipeline:
    """Return the unfitted weighted mean of finalists, without those that have a weight of 0.

    The non-negative weights minimise the error over the folds (Breiman, 1996, Stacked Regressions).
    """
    weights, _ = nnls(np.column_stack([one.predicted for one in models]), train[TARGET].to_numpy(dtype="float64"))
    used = [one.candidate for one, weight in zip(models, weights, strict=True) if weight > 0]
    members = [(candidate.name, build(candidate.name, seed, **candidate.params)) for candidate in used]
    return weighted_mean(members, weights[weights > 0].tolist())
