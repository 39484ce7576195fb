"""Search for a model and its parameters on folds of the training side (hyperopt's TPE)."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from hyperopt import JOB_STATE_DONE, STATUS_FAIL, STATUS_OK, Trials, fmin, hp, tpe
from hyperopt.exceptions import AllTrialsFailed, DuplicateLabel
from scipy.optimize import nnls
from sklearn.ensemble import VotingRegressor
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from wine_quality.errors import SearchError
from wine_quality.journal import Journal
from wine_quality.models import MODELS, build, cross_predict
from wine_quality.schema import FEATURES, TARGET
from wine_quality.splits import folds

SEARCH_TREES, FINAL_TREES = 60, 300  # extra trees
ROUNDS, PATIENCE, STOP_SHARE = 1000, 50, 0.15

Families = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Choice:
    """A model's name and the parameters it is built with, over those of `MODELS`."""

    name: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One try of a search.

    Attributes
    ----------
    number : int
        From 0, in the order in which they were drawn.
    choice : Choice
        What was tried; where rounds were stopped early, with their number.
    loss : float or None
        The RMSE over the folds, or None where the trial failed.
    error : str
        Why it failed, else empty.
    started, ended : float
        In seconds since 1970.
    cpu_seconds : float
        Of the whole process, on all cores.
    drawn : dict
        hyperopt's own note of the draw, from which a search goes on.
    """

    number: int
    choice: Choice
    loss: float | None
    error: str
    started: float
    ended: float
    cpu_seconds: float
    drawn: dict[str, list[float]] = field(repr=False)


def families() -> Families:
    """Return the parameters to search by the name of each family that `MODELS` gives a space."""
    return {name: model.space for name, model in MODELS.items() if model.space}


def space_of(searched: Families) -> Any:
    """Return hyperopt's space of a search: which family, and within it which parameters.

    Raises
    ------
    SearchError
        There is no family, one is not in `MODELS`, or two parameters share a label.
    """
    if not searched:
        raise SearchError("the search space is empty. Give it at least one family of models.")
    if unknown := sorted(set(searched) - set(MODELS)):
        raise SearchError(f"the search space names {', '.join(unknown)}. Families are: {', '.join(MODELS)}.")
    space = hp.choice("family", [{"name": name, **params} for name, params in searched.items()])
    try:
        fmin(lambda drawn: 0, space, tpe.suggest, 1, rstate=np.random.default_rng(0), verbose=False)
    except (DuplicateLabel, ValueError, TypeError, IndexError) as error:
        raise SearchError(f"the search space cannot be drawn from: {error}. Mend its ranges and labels.") from error
    return space


def search(
    wines: pd.DataFrame,
    max_evals: int,
    seed: int,
    *,
    searched: Families | None = None,
    suggest: Callable[..., Any] = tpe.suggest,
    cpu_seconds: float = np.inf,
    kept: Journal | None = None,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Try models and parameters for the lowest RMSE over 5 folds, and return all trials.

    Parameters
    ----------
    wines : DataFrame of shape (n wines, 13)
        The training side.
    max_evals : int
        How many trials, those that are kept already among them.
    seed : int
        Of the folds, the models and the draws. The draw of a trial follows from the seed, its number and the trials
        before it, so a search that was interrupted goes on as if it had not been.
    searched : dict, optional
        The parameters to search by family; by default those of `families`.
    suggest : callable
        hyperopt's algorithm.
    cpu_seconds : float
        After so many seconds of the process, on all cores, no trial begins but the first.
    kept : Journal, optional
        Where trials are kept as they end, and found again.
    tell : callable
        Called with each trial as it ends, and first with those that were kept.

    Raises
    ------
    SearchError
        The space, the number of trials or the seconds make no search; or every trial failed.

    Notes
    -----
    The Tree-structured Parzen Estimator of Bergstra et al. (2011), Algorithms for Hyper-Parameter Optimization. A trial
    that raises counts as failed, and the search goes on.
    """
    check_budget(max_evals, cpu_seconds)
    space, objective = space_of(families() if searched is None else searched), Objective(wines, seed)
    done = [trial_of(line["trial"]) for line in (kept.lines if kept else []) if "trial" in line][:max_evals]
    for trial in done:
        tell(trial)
    trials, began = trials_of(done), time.process_time()
    hidden = False if issubclass(tqdm, tqdm_notebook) else None  # None: where nobody watches a terminal
    with tqdm(total=max_evals, initial=len(done), desc="search", disable=hidden, leave=False) as bar:
        while len(done) < max_evals and (not done or time.process_time() - began < cpu_seconds):
            rng = np.random.default_rng([seed, len(done)])
            with suppress(AllTrialsFailed):  # so far; the trial is recorded all the same
                fmin(
                    objective,
                    space,
                    suggest,
                    len(done) + 1,
                    trials=trials,
                    rstate=rng,
                    verbose=False,
                    return_argmin=False,
                )
            done.append(finished(trials.trials[-1]))
            if kept:
                kept.add({"trial": asdict(done[-1])})
            tell(done[-1])
            bar.update()
    if all(trial.loss is None for trial in done):
        raise SearchError(
            f"all {len(done)} trials failed, the last with: {done[-1].error}. Mend the space or the wine."
        )
    return done


def check_budget(max_evals: int, cpu_seconds: float = np.inf) -> None:
    """Raise `SearchError` where there is no trial to make, or no time for it."""
    if max_evals < 1 or not cpu_seconds > 0:
        raise SearchError(f"a search of {max_evals} trials in {cpu_seconds} CPU seconds. Give it at least one of each.")


def best(trials: list[Trial], name: str | None = None) -> Trial:
    """Return the trial with the lowest loss, of one family where it is named; the first of equals."""
    return min((t for t in trials if t.loss is not None and name in (None, t.choice.name)), key=lambda t: t.loss)


class Objective:
    """What a search minimises: the RMSE of a draw over 5 folds, told as hyperopt wants it.

    Extra trees grow 60 trees in a trial, not 300: good parameters show at that size, in a fifth of the time. XGBoost
    adds up to 1000 trees and stops when 50 more have not helped on a seventh of the wines that it may learn from; on
    the wines that are scored it has no say.
    """

    def __init__(self, wines: pd.DataFrame, seed: int) -> None:
        self.wines, self.seed, self.parts = wines, seed, folds(wines, seed)

    def __call__(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Return hyperopt's result of a draw, with what else is known of the trial."""
        params = {key: plain(value) for key, value in drawn.items() if key != "name"}
        choice = sized(Choice(drawn["name"], params), SEARCH_TREES)
        note = {"name": choice.name, "started": time.time(), "cpu_seconds": time.process_time()}
        try:
            loss, rounds = self.rmse(choice)
            note |= {"loss": loss, "status": STATUS_OK, "params": {**choice.params, **rounds}, "error": ""}
        except Exception as error:
            note |= {"status": STATUS_FAIL, "params": choice.params, "error": f"{type(error).__name__}: {error}"}
        return note | {"ended": time.time(), "cpu_seconds": time.process_time() - note["cpu_seconds"]}

    def rmse(self, choice: Choice) -> tuple[float, dict[str, int]]:
        """Return the RMSE over the folds, and the number of rounds where they were stopped early."""
        actual = self.wines[TARGET]
        if choice.name != "xgboost":
            predicted = fold_predictions(choice, self.wines, self.parts, self.seed)
            return root_mean_squared_error(actual, predicted), {}
        rounds, stopping = [], {"n_estimators": ROUNDS, "early_stopping_rounds": PATIENCE}
        pipeline = build(choice.name, self.seed, **{**stopping, **choice.params})
        predicted = cross_predict(
            pipeline, self.wines, self.parts, lambda *fold: stopped_early(*fold, self.seed, rounds)
        )
        return root_mean_squared_error(actual, predicted), {"n_estimators": int(np.median(rounds))}


def fold_predictions(
    choice: Choice, wines: pd.DataFrame, parts: list[tuple[np.ndarray, np.ndarray]], seed: int
) -> np.ndarray:
    """Return the score of each wine by a choice that was fitted on the other folds."""
    pipeline = build(choice.name, seed, **choice.params)
    return cross_predict(pipeline, wines, parts, side_by_side=MODELS[choice.name].side_by_side)


def sized(choice: Choice, trees: int) -> Choice:
    """Return a choice of extra trees with that many trees, and any other as it is."""
    return Choice(choice.name, {**choice.params, "n_estimators": trees}) if choice.name == "extra_trees" else choice


def stopped_early(pipeline: Pipeline, wines: pd.DataFrame, seed: int, rounds: list[int]) -> Pipeline:
    """Fit a pipeline of XGBoost until a part of the wines, put aside, gets no better, and note the rounds."""
    grow, stop = train_test_split(wines, test_size=STOP_SHARE, random_state=seed)
    before, model = pipeline[:-1].fit(grow[FEATURES]), pipeline["model"]
    watched = [(before.transform(stop[FEATURES]), stop[TARGET])]
    model.fit(before.transform(grow[FEATURES]), grow[TARGET], eval_set=watched, verbose=False)
    rounds.append(model.best_iteration + 1)
    return pipeline


def plain(value: Any) -> Any:
    """Return a drawn value as Python's own, numbers rounded to what matters."""
    if isinstance(value, str):
        return value
    return round(float(value), 4) if isinstance(value, float) else int(value)


def finished(doc: dict[str, Any]) -> Trial:
    """Return the trial that hyperopt notes in `doc`."""
    result, drawn = (
        doc["result"],
        {label: [np.asarray(v).item() for v in values] for label, values in doc["misc"]["vals"].items()},
    )
    choice = Choice(result["name"], result["params"])
    told = {key: result[key] for key in ("error", "started", "ended", "cpu_seconds")}
    return Trial(doc["tid"], choice, result.get("loss"), **told, drawn=drawn)


def trial_of(line: dict[str, Any]) -> Trial:
    """Return the trial that was kept as a line of a journal."""
    return Trial(**{**line, "choice": Choice(**line["choice"])})


def trials_of(done: list[Trial]) -> Trials:
    """Return hyperopt's notes of trials that ended, so that its next draw knows them."""
    trials = Trials()
    for trial in done:
        result = {"status": STATUS_FAIL} if trial.loss is None else {"status": STATUS_OK, "loss": trial.loss}
        misc = {
            "tid": trial.number,
            "cmd": ("domain_attachment", "FMinIter_Domain"),
            "idxs": {label: [trial.number] * len(values) for label, values in trial.drawn.items()},
            "vals": trial.drawn,
        }
        (doc,) = trials.new_trial_docs([trial.number], [None], [result], [misc])
        trials.insert_trial_doc({**doc, "state": JOB_STATE_DONE})
    trials.refresh()
    return trials


@dataclass(frozen=True)
class Finalist:
    """The best of a family at full size, and its score for each wine by a model that never saw it."""

    choice: Choice
    predicted: np.ndarray
    rmse: float


def finalists(trials: list[Trial], wines: pd.DataFrame, seed: int) -> list[Finalist]:
    """Return the best of each family, the best first, compared at full size on the 5 folds of the search.

    The trials themselves would be unfair to forests, which are small there.
    """
    parts, found = folds(wines, seed), []
    for name in sorted({trial.choice.name for trial in trials if trial.loss is not None}):
        choice = sized(best(trials, name).choice, FINAL_TREES)
        predicted = fold_predictions(choice, wines, parts, seed)
        found.append(Finalist(choice, predicted, float(root_mean_squared_error(wines[TARGET], predicted))))
    return sorted(found, key=lambda finalist: finalist.rmse)


def blend(found: list[Finalist], wines: pd.DataFrame, seed: int) -> Pipeline:
    """Return the unfitted weighted mean of finalists.

    The weights are those, none below zero, whose mean has the least error over the folds (Breiman, 1996, Stacked
    Regressions). A family without weight is left out.
    """
    weights, _ = nnls(np.column_stack([one.predicted for one in found]), wines[TARGET].to_numpy(dtype="float64"))
    used = [(one.choice, float(weight)) for one, weight in zip(found, weights, strict=True) if weight > 0]
    members = [(choice.name, build(choice.name, seed, **choice.params)) for choice, _ in used]
    return Pipeline([("model", VotingRegressor(members, weights=[weight for _, weight in used], n_jobs=1))])
