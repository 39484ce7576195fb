"""Compare search algorithms on the distinct real rows: `python -m benchmarks.search` with `WINE_DATA` set.

hyperopt's TPE, random search and Optuna's TPE minimise the same objective over the same space, 100 trials each, with
five seeds. The comparison is nested: each seed belongs to one of the five reference folds. Its searches only see the
other four folds; their choice is fitted to those four and scored on the fifth, so no score comes from rows that were
used to choose. hyperopt's TPE and random search share their first 20 draws.

Every evaluation is stored in `.local/search-bench/` (joblib's `Memory`). Searches that draw the same parameters share
it, and an interrupted benchmark resumes. `make images` draws the figure.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import numpy as np
import optuna
import pandas as pd
from hyperopt import Trials, fmin, rand, tpe
from joblib import Memory
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import sem, t
from sklearn.metrics import r2_score
from sklearn.metrics import root_mean_squared_error as rmse
from sklearn.model_selection import StratifiedKFold

from benchmarks.machine import write_results
from wine_quality import sources, splits, tuning
from wine_quality.config import settings
from wine_quality.metrics import rmse_gain
from wine_quality.models import build, cross_predict, fit_predict, in_row_order
from wine_quality.schema import TARGET
from wine_quality.search import trial_from
from wine_quality.tuning import Candidate, Objective, Trial

REFERENCE_SEED = 42  # of the folds on which the reference figures were measured
SEEDS, TRIALS = range(5), 100
MARKS, SCORED_MARKS = range(5, TRIALS + 1, 5), (5, 10, 20, 40, 60, 80, 100)

WHOLE, TENTH, LOG = {"step": 1}, {"step": 0.1}, {"log": True}
RANGES: dict[str, dict[str, tuple[Any, Any, dict[str, Any]]]] = {  # those of `MODELS`, in Optuna's terms
    "extra_trees": {"max_features": (0.2, 1.0, TENTH), "min_samples_split": (2, 6, WHOLE)},
    "xgboost": {"max_depth": (3, 12, WHOLE), "learning_rate": (0.02, 0.2, LOG), "min_child_weight": (1, 10, WHOLE)},
    "svr": {"C": (0.3, 3, LOG), "gamma": (0.02, 0.2, LOG)},
    "kernel_ridge": {"alpha": (0.05, 1, LOG), "length_scale": (3, 30, LOG)},
}

LABELS = {"hyperopt": "hyperopt's TPE", "random": "random search", "optuna": "Optuna's TPE"}
COLOURS = {"hyperopt": "#0072b2", "random": "#000000", "optuna": "#d55e00"}
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 2, "fontsize": 9}  # a legend

Evaluate = Callable[[dict[str, Any]], dict[str, Any]]


class CheapObjective(Objective):
    """The objective of a search on three folds of half the rows, so that 1,500 trials take minutes, not hours."""

    def __init__(self, train: pd.DataFrame, seed: int) -> None:
        super().__init__(train.sample(frac=0.5, random_state=seed), seed)
        strata = splits.merge_rare_labels(cast(pd.Series, self.train[TARGET]))
        self.folds = list(StratifiedKFold(3, shuffle=True, random_state=seed).split(self.train, strata))


def evaluate_draw(objective: Evaluate, draw: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the result of a draw on the folds of a seed."""
    return objective(draw)


def cached(objective: Evaluate, seed: int, memory: Memory) -> Evaluate:
    """Return an objective that evaluates each set of parameters only once, across processes."""
    evaluate = cast(Callable[..., dict], memory.cache(evaluate_draw, ignore=["objective"]))
    return lambda draw: dict(evaluate(objective, {name: tuning.plain(value) for name, value in draw.items()}, seed))


def by_hyperopt(suggest: Callable[..., Any]) -> Callable[..., list[Trial]]:
    """Return a search by one of hyperopt's algorithms."""

    def search(evaluate: Evaluate, trials: int, seed: int) -> list[Trial]:
        done, rng, space = Trials(), np.random.default_rng(seed), tuning.hyperopt_space(tuning.default_space())
        fmin(evaluate, space, suggest, trials, trials=done, rstate=rng, verbose=False, return_argmin=False)
        return [trial_from(doc) for doc in done.trials]

    return search


def by_optuna(evaluate: Evaluate, trials: int, seed: int) -> list[Trial]:
    """Return a search of the same space by Optuna's TPE."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, done = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed)), []
    for number in range(trials):
        trial = study.ask()
        result = evaluate(optuna_draw(trial))
        study.tell(trial, result["loss"])
        done.append(Trial(number, Candidate(result["name"], result["params"]), result["loss"], result["error"], {}))
    return done


def optuna_draw(trial: optuna.Trial) -> dict[str, Any]:
    """Return a draw by Optuna, as hyperopt would give it."""
    name = trial.suggest_categorical("family", list(RANGES))
    fixed = {parameter: value for parameter, value in tuning.default_space()[name].items() if isinstance(value, float)}
    draw = {
        "name": name,
        "features": trial.suggest_categorical(f"{name}.features", ["measured", "engineered"]),
        **fixed,
    }
    for parameter, (low, high, how) in RANGES[name].items():
        suggest = trial.suggest_int if how is WHOLE else trial.suggest_float
        draw[parameter] = suggest(f"{name}.{parameter}", low, high, **how)
    return draw


SEARCHES = {"hyperopt": by_hyperopt(tpe.suggest), "random": by_hyperopt(rand.suggest), "optuna": by_optuna}


def score_choices(trials: list[Trial], seed: int, learn: pd.DataFrame, score: pd.DataFrame) -> dict[str | int, Any]:
    """Return the predictions of a search's choices for the fold that it never saw, and of the best at each mark."""

    def predict(candidate: Candidate) -> np.ndarray:
        return fit_predict(build(candidate.name, seed, **candidate.params), learn, score)

    finalists = tuning.finalists(trials, Objective(learn, seed))
    bests = {mark: tuning.with_trees(tuning.best(trials[:mark]).candidate, tuning.FINAL_TREES) for mark in SCORED_MARKS}
    return {
        "pick": predict(finalists[0].candidate),
        "blend": fit_predict(tuning.blend(finalists, learn, seed), learn, score),
        **{mark: predict(candidate) for mark, candidate in bests.items()},
    }


def search(name: str, seed: int, learn: pd.DataFrame, score: pd.DataFrame) -> dict[str | int, Any]:
    """Search with one seed, and return the losses and what the choices predict; all that is stored is reused."""
    memory = Memory(settings().local / "search-bench", verbose=0)
    trials = SEARCHES[name](cached(CheapObjective(learn, seed), seed, memory), TRIALS, seed)
    print(name, seed, tuning.best(trials).loss, flush=True)
    choices = cast(Callable[..., dict], memory.cache(score_choices, ignore=["learn", "score"]))
    return {"losses": [trial.loss for trial in trials], **choices(trials, seed, learn, score)}


def interval(differences: np.ndarray) -> dict[str, Any]:
    """Return the mean of a difference over the seeds with its 95 % interval (Student's t), and each seed's own."""
    mean = float(np.mean(differences))
    half = float(t.ppf(0.975, len(differences) - 1) * sem(differences))
    return {"mean": mean, "low": mean - half, "high": mean + half, "by_seed": np.round(differences, 5).tolist()}


def lowest(outcomes: list[dict[Any, Any]]) -> np.ndarray:
    """Return the best loss so far of each search, of shape (seeds, trials)."""
    return np.minimum.accumulate([one["losses"] for one in outcomes], axis=1)


def lasting(holds: np.ndarray) -> int | None:
    """Return the number of trials after which a condition always holds, or None."""
    first = len(holds) - int(np.argmin(holds[::-1])) if not holds.all() else 0
    return first + 1 if first < len(holds) else None


def against_random(outcomes: list[dict[Any, Any]], random: list[dict[Any, Any]]) -> dict[str, Any]:
    """Compare the best loss so far with random search's, seed by seed; below zero is better than random search."""
    found = [interval(column) for column in (lowest(outcomes) - lowest(random)).T]
    return {
        "ahead_from_trial": lasting(np.array([one["mean"] < 0 for one in found])),
        "surely_ahead_from_trial": lasting(np.array([one["high"] < 0 for one in found])),
        "loss": {str(mark): found[mark - 1] for mark in MARKS},
    }


def gains(actual: np.ndarray, steps: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return how much each step lowers the RMSE, against the previous and the first step, with 95 % intervals."""
    return {
        name: {
            "rmse": rmse(actual, steps[name]),
            "over_the_step_before": rmse_gain(actual, steps[before], steps[name], REFERENCE_SEED),
            "over_library_defaults": rmse_gain(actual, steps["extra_trees"], steps[name], REFERENCE_SEED),
        }
        for before, name in pairwise(steps)
    }


def main() -> None:
    rows = splits.distinct_rows(sources.load_dataset(settings()).collection)
    parts, actual = splits.folds(rows, REFERENCE_SEED), rows[TARGET].to_numpy()
    outcomes = {
        name: [search(name, seed, *(rows.iloc[part] for part in parts[seed])) for seed in SEEDS] for name in SEARCHES
    }

    def pooled(name: str, what: str | int) -> np.ndarray:
        return in_row_order([one[what] for one in outcomes[name]], parts, len(rows))

    def pick_by_fold(name: str) -> np.ndarray:
        own = zip(parts, outcomes[name], strict=True)
        return np.array([rmse(actual[score], one["pick"]) for (_, score), one in own])

    searches: dict[str, dict[str, Any]] = {}
    for name in SEARCHES:
        searches[name] = {"best_so_far": {mark: rmse(actual, pooled(name, mark)) for mark in SCORED_MARKS}}
        for what in ("pick", "blend"):
            predicted = pooled(name, what)
            searches[name][what] = {"rmse": rmse(actual, predicted), "r2": r2_score(actual, predicted)}
    for name in ("hyperopt", "optuna"):
        picks = interval(pick_by_fold(name) - pick_by_fold("random"))
        searches[name]["against_random"] = against_random(outcomes[name], outcomes["random"]) | {"pick": picks}

    baselines = ("extra_trees", "extra_trees_tuned")
    steps = {name: cross_predict(build(name, REFERENCE_SEED), rows, parts) for name in baselines}
    steps |= {what: pooled("hyperopt", what) for what in ("pick", "blend")}
    results = {
        "library_defaults_rmse": rmse(actual, steps["extra_trees"]),
        "gains": gains(actual, steps),
        "searches": searches,
    }
    write_results("search", {"wines": len(rows), "trials": TRIALS, **results})


def draw(results: dict[str, Any]) -> Figure:
    """Return the figure of the results: loss relative to random search, and RMSE on the fold that no search saw."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_differences(left, results["searches"])
    draw_held_out(right, results)
    return figure


def draw_differences(axes: Axes, searches: dict[str, Any]) -> None:
    """Draw each TPE's best loss so far minus that of random search: a thin line per seed, a thick one for the mean."""
    for name in ("hyperopt", "optuna"):
        loss = searches[name]["against_random"]["loss"]
        trials = [int(mark) for mark in loss]
        axes.plot(trials, [one["by_seed"] for one in loss.values()], color=COLOURS[name], linewidth=0.8, alpha=0.5)
        axes.plot(trials, [one["mean"] for one in loss.values()], color=COLOURS[name], linewidth=3, label=LABELS[name])
    axes.axhline(0, color="black", linewidth=1, label=LABELS["random"])
    axes.axvline(20, color="grey", linestyle=":", label="hyperopt draws at random until here")
    axes.set(xlabel="trials", ylabel="best loss so far − that of random search")
    axes.set_title("During the search: below zero is better than random\n(thin: each of five seeds, thick: their mean)")
    axes.legend(**BELOW)


def draw_held_out(axes: Axes, results: dict[str, Any]) -> None:
    """Draw the RMSE of the best so far on the folds that no search saw, next to models without a search."""
    for (name, found), marker in zip(results["searches"].items(), "osD", strict=True):
        marks = [int(mark) for mark in found["best_so_far"]]
        axes.plot(marks, found["best_so_far"].values(), marker=marker, color=COLOURS[name], label=LABELS[name])
    steps = results["gains"]
    axes.axhline(results["library_defaults_rmse"], color="grey", linestyle=":", label="extra trees, library defaults")
    axes.axhline(steps["extra_trees_tuned"]["rmse"], color="grey", linestyle="--", label="extra trees, hand-tuned")
    axes.plot(TRIALS, steps["blend"]["rmse"], "*", color="black", markersize=12, label="blend, hyperopt's TPE")
    axes.set(xlabel="trials", ylabel="RMSE on the fold that no search saw")
    axes.set_title("Afterwards: the best so far on unseen rows\n(five folds pooled)")
    axes.legend(**BELOW)


if __name__ == "__main__":
    main()
