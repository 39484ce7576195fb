"""Compare ways to search on the real distinct wines: `python -m benchmarks.search` with `WINE_DATA` set.

hyperopt's TPE, random search and Optuna's TPE minimise the same objective over the same space, 100 trials each, with
five seeds. The comparison is nested: a seed stands for one of the five folds on which the reference figures were
measured. Its searches see the other four folds only; what they pick is fitted on those four and scored on the fifth,
so nothing is chosen on the wines that a figure is quoted on. hyperopt's TPE and random search share their first 20
draws.

Every evaluation is stored in `.local/search-bench/` (joblib's `Memory`). Searches that draw the same parameters share
it, and an interrupted benchmark continues where it stopped. Start it in several processes to divide the work. With
`report` as an argument it only writes `results/search.json`. `make images` draws the figure.
"""

import sys
import time
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from hyperopt import Trials, fmin, rand, tpe
from joblib import Memory
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import sem, t
from sklearn.model_selection import StratifiedKFold

from benchmarks.machine import write_results
from wine_quality import sources, splits, tuning
from wine_quality.config import settings
from wine_quality.files import exclusive_lock, is_locked
from wine_quality.metrics import r2_interval, rmse_gain
from wine_quality.models import build, cross_predict, fit_predict
from wine_quality.schema import TARGET
from wine_quality.search import trial_from
from wine_quality.tuning import Candidate, Objective, SearchSpace, Trial

REFERENCE_SEED = 42  # of the folds on which the reference figures were measured
SEEDS, TRIALS, BLOCK = range(5), 100, 20  # each search gets its next 20 trials before any gets more
MARKS = range(5, TRIALS + 1, 5)
SCORED_MARKS = [5, 10, 20, 40, 60, 80, 100]


Evaluate = Callable[[dict[str, Any]], dict[str, Any]]


class CheapObjective(Objective):
    """The objective of a search on three folds of half the rows, so that 1,500 trials take minutes and not hours."""

    def __init__(self, train: pd.DataFrame, seed: int) -> None:
        super().__init__(train.sample(frac=0.5, random_state=seed), seed)
        strata = splits.merge_rare_labels(self.train[TARGET])
        self.folds = list(StratifiedKFold(3, shuffle=True, random_state=seed).split(self.train, strata))


def evaluated(objective: Evaluate, draw: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the result of a draw on the folds of a seed."""
    return objective(draw)


def shared(objective: Evaluate, seed: int, memory: Memory) -> Evaluate:
    """Return an objective that evaluates each set of parameters once, in whatever process."""
    cached = memory.cache(evaluated, ignore=["objective"])

    def evaluate(draw: dict[str, Any]) -> dict[str, Any]:
        return dict(cached(objective, {name: tuning.plain(value) for name, value in draw.items()}, seed))

    return evaluate


def by_hyperopt(suggest: Callable[..., Any], space: SearchSpace) -> Callable[..., list[Trial]]:
    """Return a search by one of hyperopt's algorithms."""

    def search(evaluate: Evaluate, trials: int, seed: int) -> list[Trial]:
        done, rng = Trials(), np.random.default_rng(seed)
        expression = tuning.hyperopt_space(space)
        fmin(evaluate, expression, suggest, trials, trials=done, rstate=rng, verbose=False, return_argmin=False)
        return [trial_from(doc) for doc in done.trials]

    return search


def by_optuna(evaluate: Evaluate, trials: int, seed: int) -> list[Trial]:
    """Return a search of the same space by Optuna's TPE."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, done = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed)), []
    for number in range(trials):
        trial = study.ask()
        result = evaluate(drawn_by_optuna(trial))
        study.tell(trial, result["loss"])
        done.append(Trial(number, Candidate(result["name"], result["params"]), result["loss"], result["error"], {}))
    return done


def drawn_by_optuna(trial: optuna.Trial) -> dict[str, Any]:
    """Return a draw from the ranges of `MODELS`, said in Optuna's words."""
    name = trial.suggest_categorical("family", list(tuning.default_space()))
    fixed = {parameter: value for parameter, value in tuning.default_space()[name].items() if isinstance(value, float)}
    drawn = {"name": name, "features": trial.suggest_categorical(f"{name}.features", ["measured", "chemist"]), **fixed}
    for parameter, low, high, kind in {
        "extra_trees": [("max_features", 0.2, 1.0, "tenth"), ("min_samples_split", 2, 6, "whole")],
        "xgboost": [
            ("max_depth", 3, 12, "whole"),
            ("learning_rate", 0.02, 0.2, "log"),
            ("min_child_weight", 1, 10, "whole"),
        ],
        "svr": [("C", 0.3, 3, "log"), ("gamma", 0.02, 0.2, "log")],
        "kernel_ridge": [("alpha", 0.05, 1, "log"), ("length_scale", 3, 30, "log")],
    }[name]:
        label = f"{name}.{parameter}"
        if kind == "whole":
            drawn[parameter] = trial.suggest_int(label, low, high)
        else:
            step = {"tenth": {"step": 0.1}, "log": {"log": True}}[kind]
            drawn[parameter] = trial.suggest_float(label, low, high, **step)
    return drawn


SEARCHES = {
    "hyperopt": by_hyperopt(tpe.suggest, tuning.default_space()),
    "random": by_hyperopt(rand.suggest, tuning.default_space()),
    "optuna": by_optuna,
}


LABELS = {
    "hyperopt": "hyperopt's TPE",
    "random": "random search",
    "optuna": "Optuna's TPE",
}
COLOURS = {"hyperopt": "#0072b2", "random": "#000000", "optuna": "#d55e00"}

BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 2, "fontsize": 9}  # a legend


def wines_and_folds() -> tuple[pd.DataFrame, list[tuple[np.ndarray, np.ndarray]]]:
    """Return the distinct wines and the folds of the reference figures."""
    wines = splits.distinct_rows(sources.load_dataset(settings()).collection)
    return wines, splits.folds(wines, REFERENCE_SEED)


def folder() -> Path:
    """Return where evaluations are stored."""
    return settings().local / "search-bench"


def outcome(name: str, seed: int, trials: list[Trial], learn: pd.DataFrame, score: pd.DataFrame) -> dict[str, Any]:
    """Return the losses of a search, and what its candidates predict for the fold that it never saw."""

    def predicted(candidate: Candidate) -> list[float]:
        pipeline = build(candidate.name, seed, **candidate.params)
        return fit_predict(pipeline, learn, score).round(5).tolist()

    found = tuning.finalists(trials, learn, seed)
    bests = {mark: tuning.with_trees(tuning.best(trials[:mark]).candidate, tuning.FINAL_TREES) for mark in SCORED_MARKS}
    distinct = {str(candidate): candidate for candidate in bests.values()}
    scores = {text: predicted(candidate) for text, candidate in distinct.items()}
    blended = fit_predict(tuning.blend(found, learn, seed), learn, score)
    return {
        "picked": found[0].candidate.name, "params": found[0].candidate.params,
        "losses": [trial.loss for trial in trials],
        "pick": predicted(found[0].candidate), "blend": blended.round(5).tolist(),
        "best_so_far": {str(mark): scores[str(candidate)] for mark, candidate in bests.items()},
    }  # fmt: skip


def search(trials: int, seed: int, name: str) -> tuple[list[Trial], dict[str, pd.DataFrame]]:
    """Return the first trials of a search, evaluated or stored, and the rows that it learns from and is scored on."""
    wines, parts = wines_and_folds()
    learn, score = (wines.iloc[rows] for rows in parts[seed])
    objective = shared(CheapObjective(learn, seed), seed, Memory(folder(), verbose=0))
    return SEARCHES[name](objective, trials, seed), {"learn": learn, "score": score}


def conclusion(seed: int, name: str) -> dict[str, Any]:
    """Return the outcome of a whole search, computed only if no process has stored it yet."""
    done, rows = search(TRIALS, seed, name)
    return Memory(folder(), verbose=0).cache(outcome, ignore=["learn", "score"])(name, seed, done, **rows)


def advance(trials: int, seed: int, name: str, conclude: bool) -> bool:
    """Bring a search to a number of trials, or return False where another process works on the same seed."""
    lock = folder() / f"{seed}.lock"
    if is_locked(lock):
        return False
    with exclusive_lock(lock):
        done, _ = search(trials, seed, name)
        if conclude:
            conclusion(seed, name)
    print(trials, seed, name, round(tuning.best(done).loss, 4), "concluded" if conclude else "", flush=True)
    return True


def run_all() -> None:
    """Run all searches, block by block, and score their choices."""
    blocks = range(BLOCK, TRIALS + 1, BLOCK)
    jobs = [*product(blocks, SEEDS, SEARCHES, [False]), *product([TRIALS], SEEDS, SEARCHES, [True])]
    while jobs:
        done = next((job for job in jobs if advance(*job)), None)
        if done:
            jobs.remove(done)
        else:
            time.sleep(1)


def rmse(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean((actual - predicted) ** 2)))


def interval(differences: np.ndarray) -> dict[str, Any]:
    """Return the mean of a difference over the seeds with its 95 % interval (Student's t), and each seed's own."""
    mean = float(np.mean(differences))
    half = float(t.ppf(0.975, len(differences) - 1) * sem(differences))
    return {"mean": mean, "low": mean - half, "high": mean + half, "by_seed": np.round(differences, 5).tolist()}


def lowest(outcomes: list[dict[str, Any]]) -> np.ndarray:
    """Return the best loss so far of each search, of shape (seeds, trials)."""
    return np.minimum.accumulate([one["losses"] for one in outcomes], axis=1)


def lasting(holds: np.ndarray) -> int | None:
    """Return the number of trials from which on a condition holds until the end, or None."""
    first = len(holds) - int(np.argmin(holds[::-1])) if not holds.all() else 0
    return first + 1 if first < len(holds) else None


def against_random(outcomes: list[dict[str, Any]], random: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the best loss so far with random search's, seed by seed; below zero is better than random search."""
    differences = lowest(outcomes) - lowest(random)
    found = [interval(column) for column in differences.T]
    return {
        "ahead_from_trial": lasting(np.array([one["mean"] < 0 for one in found])),
        "surely_ahead_from_trial": lasting(np.array([one["high"] < 0 for one in found])),
        "loss": {str(mark): found[mark - 1] for mark in MARKS},
    }


def summary(
    outcomes: list[dict[str, Any]], pooled: Callable[[list[list[float]]], np.ndarray], actual: np.ndarray, parts: Any
) -> dict[str, Any]:
    """Return the figures of one kind of search: its pick, its blend, and its best so far at each mark."""
    result = {
        "picked": [one["picked"] for one in outcomes],
        "best_so_far": {
            str(mark): rmse(actual, pooled([one["best_so_far"][str(mark)] for one in outcomes]))
            for mark in SCORED_MARKS
        },
    }
    for what in ("pick", "blend"):
        predicted = pooled([one[what] for one in outcomes])
        by_fold = [rmse(actual[score], predicted[score]) for _, score in parts]
        r2 = r2_interval(actual, predicted, REFERENCE_SEED)
        result[what] = {"rmse": rmse(actual, predicted), "r2": r2, "rmse_by_fold": by_fold}
    return result


def gains(actual: np.ndarray, steps: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return by how much each step lowers the RMSE of the step before it and of the first, with 95 % intervals."""
    names = list(steps)
    return {
        name: {
            "rmse": rmse(actual, steps[name]),
            "over_the_step_before": rmse_gain(actual, steps[before], steps[name], REFERENCE_SEED),
            "over_library_defaults": rmse_gain(actual, steps[names[0]], steps[name], REFERENCE_SEED),
        }
        for before, name in pairwise(names)
    }


def report() -> None:
    """Write the results."""
    wines, parts = wines_and_folds()
    actual, found = wines[TARGET].to_numpy(), {}
    for name in SEARCHES:
        found[name] = [conclusion(seed, name) for seed in SEEDS]

    def pooled(by_fold: list[list[float]]) -> np.ndarray:
        together = np.full(len(wines), np.nan)
        for (_, score), predicted in zip(parts, by_fold, strict=True):
            together[score] = predicted
        return together

    steps = {
        name: cross_predict(build(name, REFERENCE_SEED), wines, parts) for name in ("extra_trees", "extra_trees_tuned")
    }
    steps |= {what: pooled([one[what] for one in found["hyperopt"]]) for what in ("pick", "blend")}
    searches = {name: summary(outcomes, pooled, actual, parts) for name, outcomes in found.items()}
    for name in SEARCHES:
        if name != "random":
            searches[name]["against_random"] = against_random(found[name], found["random"]) | {
                what: interval(
                    np.subtract(searches[name][what]["rmse_by_fold"], searches["random"][what]["rmse_by_fold"])
                )
                for what in ("pick", "blend")
            }
    write_results(
        "search",
        {
            "wines": len(wines),
            "trials": TRIALS,
            "seeds": len(SEEDS),
            "library_defaults_rmse": rmse(actual, steps["extra_trees"]),
            "gains": gains(actual, steps),
            "searches": searches,
        },
    )


def drawn(results: dict[str, Any]) -> Figure:
    """Return the figure of the results: loss against random search's, and RMSE on the fold that no search saw."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_differences(left, results["searches"])
    draw_held_out(right, results)
    return figure


def draw_differences(axes: Axes, searches: dict[str, Any]) -> None:
    """Draw the best loss so far of two TPEs less that of random search: a thin line a seed, a thick one the mean."""
    for name, colour in (("hyperopt", COLOURS["hyperopt"]), ("optuna", COLOURS["optuna"])):
        loss = searches[name]["against_random"]["loss"]
        trials = [int(mark) for mark in loss]
        axes.plot(trials, [one["by_seed"] for one in loss.values()], color=colour, linewidth=0.8, alpha=0.5)
        axes.plot(trials, [one["mean"] for one in loss.values()], color=colour, linewidth=3, label=LABELS[name])
    axes.axhline(0, color="black", linewidth=1, label=LABELS["random"])
    axes.axvline(20, color="grey", linestyle=":", label="hyperopt draws at random until here")
    axes.set(xlabel="trials", ylabel="best loss so far − that of random search")
    axes.set_title("During the search: below zero is better than random\n(thin: each of five seeds, thick: their mean)")
    axes.legend(**BELOW)


def draw_held_out(axes: Axes, results: dict[str, Any]) -> None:
    """Draw the RMSE of the best so far on the folds that no search saw, beside the models without a search."""
    for (name, found), marker in zip(results["searches"].items(), "osD", strict=True):
        marks = [int(mark) for mark in found["best_so_far"]]
        axes.plot(marks, found["best_so_far"].values(), marker=marker, color=COLOURS[name], label=LABELS[name])
    steps = results["gains"]
    axes.axhline(results["library_defaults_rmse"], color="grey", linestyle=":", label="extra trees, library defaults")
    axes.axhline(steps["extra_trees_tuned"]["rmse"], color="grey", linestyle="--", label="extra trees, hand-tuned")
    axes.plot(marks[-1], steps["blend"]["rmse"], "*", color="black", markersize=12, label="blend, hyperopt's TPE")
    axes.set(xlabel="trials", ylabel="RMSE on the fold that no search saw")
    axes.set_title("Afterwards: the best so far on unseen wines\n(five folds pooled)")
    axes.legend(**BELOW)


def main() -> None:
    if "report" not in sys.argv:
        run_all()
    report()


if __name__ == "__main__":
    main()
