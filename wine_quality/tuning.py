"""What a search evaluates: a space of candidates, their loss over cross-validation folds, the finalists, the blend."""

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

SearchSpace = dict[str, dict[str, Any]]  # the parameters to search, by the name of a model


@dataclass(frozen=True)
class Candidate:
    """A model's name and the parameters it is built with, over those of `MODELS`."""

    name: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """An evaluation of a search; `number` counts from 0, in the order of the draws.

    `candidate` has the number of rounds if XGBoost stopped early. `loss` is the RMSE over the folds, or None if the
    trial failed, for the reason `error`. `draw` is hyperopt's own record (`misc.vals`), from which a search resumes.
    `cpu_seconds` is what the process that evaluated it used.
    """

    number: int
    candidate: Candidate
    loss: float | None
    error: str
    draw: dict[str, list[float]] = field(repr=False)
    cpu_seconds: float = field(default=0.0, repr=False, compare=False)


def default_space() -> SearchSpace:
    """Return the parameters to search of each model that has a search space in `MODELS`."""
    return {name: model.space for name, model in MODELS.items() if model.space}


def hyperopt_space(space: SearchSpace) -> Any:
    """Return a search space as hyperopt's expression: which model, and for that model which parameters.

    Raise `SearchError` if it is empty, names an unknown model or parameter, or two parameters share a label.
    """
    if not space:
        raise SearchError("the search space is empty. Give it at least one model.")
    if unknown := sorted(set(space) - set(MODELS)):
        raise SearchError(f"the search space names {', '.join(unknown)}. Models are: {', '.join(MODELS)}.")
    try:
        for name, params in space.items():
            build(name, 0, **params)
        expression = hp.choice("family", [{"name": name, **params} for name, params in space.items()])
        fmin(lambda draw: 0, expression, tpe.suggest, 1, rstate=np.random.default_rng(0), verbose=False)
    except (DuplicateLabel, ValueError, TypeError, IndexError) as error:
        raise SearchError(f"the search space cannot be used: {error}. Fix its parameters, ranges or labels.") from error
    return expression


def best(trials: list[Trial], name: str | None = None) -> Trial:
    """Return the trial with the lowest loss, of one model if it is named; of equals the first."""
    return min(
        (trial for trial in trials if trial.loss is not None and name in (None, trial.candidate.name)),
        key=lambda trial: trial.loss or 0.0,
    )


class Objective:
    """What a search minimises: the RMSE of a candidate over 5 folds, as hyperopt's result.

    Extra trees grow 60 trees in a trial, not 300: good parameters show at that size, in a fifth of the time. XGBoost
    adds up to 1000 trees and stops when 50 more have not helped on a seventh of the training rows. Predictions over the
    folds are computed once for each candidate, because a trial may be a finalist as it is; they stay in the process
    that computed them. Linear algebra uses one thread: with another number, the last bits of a loss would differ.
    """

    def __init__(self, train: pd.DataFrame, seed: int) -> None:
        self.train, self.seed, self.folds = train, seed, folds(train, seed)
        self.predicted: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to another process: all but the predictions."""
        return {**self.__dict__, "predicted": {}}

    def __call__(self, draw: dict[str, Any]) -> dict[str, Any]:
        """Return hyperopt's result of a draw, with the candidate that it stands for."""
        params = {key: plain(value) for key, value in draw.items() if key != "name"}
        candidate = with_trees(Candidate(draw["name"], params), SEARCH_TREES)
        result = {"name": candidate.name, "params": candidate.params, "error": ""}
        try:
            loss, rounds = self.rmse(candidate)
        except ValueError as error:  # so are scikit-learn's InvalidParameterError, XGBoostError and LinAlgError
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
        """Return the score of each row, shape (n rows,), by a candidate that was fitted on the other folds."""
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
    """Return the result of a draw, and the seconds and the CPU seconds of this process that it took: a unit of work."""
    started, cpu = time.monotonic(), time.process_time()
    result = objective(draw)
    return result, time.monotonic() - started, time.process_time() - cpu


def early_stopped_fold(
    pipeline: Pipeline, learn: pd.DataFrame, score: pd.DataFrame, seed: int
) -> tuple[np.ndarray, Pipeline]:
    """Fit XGBoost until a held-out part of the training rows gets no better; return the scores and the model."""
    parts: list[Any] = train_test_split(learn, test_size=STOP_SHARE, random_state=seed)
    grow, stop = parts
    before: Pipeline = pipeline[:-1].fit(grow[FEATURES])
    watched = [(before.transform(stop[FEATURES]), stop[TARGET])]
    pipeline["model"].fit(before.transform(grow[FEATURES]), grow[TARGET], eval_set=watched, verbose=False)
    return predict(pipeline, score), pipeline


def with_trees(candidate: Candidate, trees: int) -> Candidate:
    """Return a candidate of extra trees with that many trees, and any other as it is."""
    if candidate.name != "extra_trees":
        return candidate
    return Candidate(candidate.name, {**candidate.params, "n_estimators": trees})


def plain(value: Any) -> Any:
    """Return a drawn value as Python's own type, floats rounded to four digits."""
    if isinstance(value, str):
        return value
    return round(float(value), 4) if isinstance(value, float) else int(value)


@dataclass(frozen=True)
class Finalist:
    """The best candidate of a model at full size, and its cross-validated score for each row."""

    candidate: Candidate
    predicted: np.ndarray
    rmse: float


def finalists(trials: list[Trial], objective: Objective) -> list[Finalist]:
    """Return the best candidate of each model, the best first, compared at full size on the folds of the objective.

    The trials themselves would be unfair to forests, which are small there.
    """
    result, actual = [], objective.train[TARGET]
    for name in sorted({trial.candidate.name for trial in trials if trial.loss is not None}):
        candidate = with_trees(best(trials, name).candidate, FINAL_TREES)
        predicted = objective.predictions(candidate)
        result.append(Finalist(candidate, predicted, float(root_mean_squared_error(actual, predicted))))
    return sorted(result, key=lambda finalist: finalist.rmse)


def blend(models: list[Finalist], train: pd.DataFrame, seed: int) -> Pipeline:
    """Return the unfitted weighted mean of finalists; a model without weight is left out.

    The non-negative weights minimise the error over the folds (Breiman, 1996, Stacked Regressions).
    """
    weights, _ = nnls(np.column_stack([one.predicted for one in models]), train[TARGET].to_numpy(dtype="float64"))
    used = [one.candidate for one, weight in zip(models, weights, strict=True) if weight > 0]
    members = [(candidate.name, build(candidate.name, seed, **candidate.params)) for candidate in used]
    return weighted_mean(members, weights[weights > 0].tolist())
