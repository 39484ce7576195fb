"""Measure the search on the real distinct wines: `python -m benchmarks.search` with `WINE_DATA` set.

Nested: for each of the five folds on which the reference figures were measured, a search with a seed of its own sees
the other four alone. Its pick, and the blend of its families, are fitted on those four and score the fifth, so nothing
is chosen on the wines that a figure is quoted on. A search with its finals and fits gets 120 CPU seconds of the whole
process. Random search, the old tutorial's space and Optuna's TPE have the same objective and the same seconds.

Each search adds a line to `.local/search-bench.jsonl`, so that an interrupted measurement goes on. With `report` as an
argument it only writes `results/search.json` from what is there. `make images` draws the figure of it.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pandas as pd
from hyperopt import hp, rand, tpe
from matplotlib.figure import Figure
from sklearn.pipeline import Pipeline

from benchmarks.machine import write_results
from wine_quality import data, splits, tuning
from wine_quality.config import settings
from wine_quality.journal import Journal
from wine_quality.metrics import r2_interval, rmse_gain
from wine_quality.models import build, cross_predict, fit, predict
from wine_quality.schema import TARGET
from wine_quality.tuning import Objective, Trial

BUDGET, FOR_SEARCH = 120, 80  # CPU seconds: the rest is for the finals, the blend and the last fits
REFERENCE_SEED = 42  # of the folds on which the reference figures were measured
MARKS = [5, 10, 20, 40, 80]
OLD_SPACE = {
    "xgboost": {
        "max_depth": hp.uniformint("old.max_depth", 4, 100),
        "learning_rate": hp.loguniform("old.learning_rate", -3, 0),
        "reg_alpha": hp.loguniform("old.reg_alpha", -5, -1),
        "reg_lambda": hp.loguniform("old.reg_lambda", -6, -1),
        "min_child_weight": hp.loguniform("old.min_child_weight", -1, 3),
        "subsample": hp.choice("old.subsample", [1]),
        "colsample_bytree": hp.choice("old.colsample_bytree", [1]),
    }
}


def hyperopt_trials(suggest: Callable[..., Any], searched: tuning.Families) -> Callable[..., list[Trial]]:
    """Return a search by one of hyperopt's algorithms."""
    return lambda wines, seed: tuning.search(
        wines, 10_000, seed, searched=searched, suggest=suggest, cpu_seconds=FOR_SEARCH
    )


def optuna_trials(wines: pd.DataFrame, seed: int) -> list[Trial]:
    """Return a search of the same space by Optuna's TPE."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    objective, done, began = Objective(wines, seed), [], time.process_time()
    while time.process_time() - began < FOR_SEARCH:
        trial = study.ask()
        result = objective(drawn_by_optuna(trial))
        study.tell(trial, result["loss"])
        choice = tuning.Choice(result["name"], result["params"])
        told = {key: result[key] for key in ("error", "started", "ended", "cpu_seconds")}
        done.append(Trial(trial.number, choice, result["loss"], **told, drawn={}))
    return done


def drawn_by_optuna(trial: optuna.Trial) -> dict[str, Any]:
    """Return a draw from the ranges of `MODELS`, said in Optuna's words."""
    name = trial.suggest_categorical("family", list(tuning.families()))
    drawn = {"name": name, "features": trial.suggest_categorical(f"{name}.features", ["measured", "chemist"])}
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
    "hyperopt": hyperopt_trials(tpe.suggest, tuning.families()),
    "random": hyperopt_trials(rand.suggest, tuning.families()),
    "optuna": optuna_trials,
    "old space": hyperopt_trials(tpe.suggest, OLD_SPACE),
}


def best_so_far(trials: list[Trial]) -> list[tuple[float, Trial]]:
    """Return each trial that was the best when it ended, with the CPU seconds spent until then."""
    spent, found = 0.0, []
    for trial in trials:
        spent += trial.cpu_seconds
        if trial.loss is not None and (not found or trial.loss < found[-1][1].loss):
            found.append((spent, trial))
    return found


def scored(pipeline: Pipeline, learn: pd.DataFrame, score: pd.DataFrame) -> list[float]:
    """Return the scores of wines by a pipeline that is fitted on others."""
    return predict(fit(pipeline, learn), score).round(5).tolist()


def measure(name: str, seed: int, learn: pd.DataFrame, score: pd.DataFrame) -> dict[str, Any]:
    """Make one search on `learn` and return what its choices say of `score`, with the CPU seconds of each part."""
    began = time.process_time()
    trials = SEARCHES[name](learn, seed)
    searched = time.process_time() - began
    found = tuning.finalists(trials, learn, seed)
    pick = scored(build(found[0].choice.name, seed, **found[0].choice.params), learn, score)
    picked = time.process_time() - began
    mixed = scored(tuning.blend(found, learn, seed), learn, score) if len(found) > 1 else pick
    blended = time.process_time() - began
    curve = [
        {"cpu_seconds": spent, "loss": trial.loss,
         "scores": scored(build(trial.choice.name, seed, **trial.choice.params), learn, score)}
        for spent, trial in best_so_far(trials)
    ]  # fmt: skip
    return {
        "trials": len(trials), "picked": found[0].choice.name, "params": found[0].choice.params,
        "cpu_seconds": {"search": searched, "pick": picked, "blend": blended},
        "pick": pick, "blend": mixed, "curve": curve,
    }  # fmt: skip


def wines_and_folds() -> tuple[pd.DataFrame, list[tuple[np.ndarray, np.ndarray]]]:
    """Return the distinct wines and the folds of the reference figures."""
    wines = splits.distinct_wines(data.load_wine(settings()).collection)
    return wines, splits.folds(wines, REFERENCE_SEED)


def pooled(lines: list[dict[str, Any]], scores: Callable[[dict[str, Any]], list[float]]) -> np.ndarray:
    """Return the score of each wine, by the search of the fold that it is in."""
    wines, parts = wines_and_folds()
    together = np.full(len(wines), np.nan)
    for line in lines:
        together[parts[line["fold"]][1]] = scores(line)
    return together


def at(line: dict[str, Any], seconds: float) -> list[float]:
    """Return the scores of what was best when so many CPU seconds of a search were spent, or of its first trial."""
    return [point["scores"] for point in line["curve"] if point["cpu_seconds"] <= seconds or point is line["curve"][0]][
        -1
    ]


def rmse(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean((actual - predicted) ** 2)))


def summary(lines: list[dict[str, Any]], actual: np.ndarray, usual: np.ndarray, parts: Any) -> dict[str, Any]:
    """Return the figures of one kind of search: its pick, its blend, and its best so far at each mark."""
    seconds = [line["cpu_seconds"]["blend"] for line in lines]
    result = {
        "searches": len(lines),
        "trials": [min(line["trials"] for line in lines), max(line["trials"] for line in lines)],
        "cpu_seconds": [round(min(seconds), 1), round(max(seconds), 1)],
        "picked": [line["picked"] for line in lines],
        "best_so_far": {str(mark): rmse(actual, pooled(lines, lambda line: at(line, mark))) for mark in MARKS},  # noqa: B023
    }
    for what in ("pick", "blend"):
        predicted = pooled(lines, lambda line: line[what])  # noqa: B023
        gain, low, high = rmse_gain(actual, usual, predicted, REFERENCE_SEED)
        by_fold = [rmse(actual[parts[line["fold"]][1]], np.array(line[what])) for line in lines]
        result[what] = {
            "rmse": rmse(actual, predicted), "r2": r2_interval(actual, predicted, REFERENCE_SEED),
            "gain_over_extra_trees": [gain, low, high], "rmse_by_fold": by_fold,
        }  # fmt: skip
    return result


def report(lines: list[dict[str, Any]]) -> None:
    """Write the results and the figure."""
    wines, parts = wines_and_folds()
    actual = wines[TARGET].to_numpy()
    usual = cross_predict(build("extra_trees", REFERENCE_SEED), wines, parts)
    by_name = {name: [line for line in lines if line["search"] == name] for name in SEARCHES}
    found = {name: summary(own, actual, usual, parts) for name, own in by_name.items()}
    write_results("search", {"wines": len(wines), "extra_trees_rmse": rmse(actual, usual), "searches": found})


def drawn(results: dict[str, Any]) -> Figure:
    """Return the figure of the results: the best so far of each search over its seconds."""
    found = results["searches"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, result), marker in zip(found.items(), "osD^", strict=True):
        axes.plot(MARKS, result["best_so_far"].values(), marker=marker, label=name)
    axes.axhline(results["extra_trees_rmse"], color="grey", linestyle=":", label="extra trees, usual parameters")
    axes.plot(BUDGET, found["hyperopt"]["blend"]["rmse"], "*", color="black", markersize=12, label="blend, hyperopt")
    axes.set(xscale="log", xticks=[*MARKS, BUDGET], xlabel="CPU seconds", ylabel="RMSE on wines that no search saw")
    axes.set_xticklabels([*MARKS, BUDGET])
    axes.minorticks_off()
    axes.set_title("The best so far: ranges and families matter more than the algorithm")
    axes.legend()
    return figure


def main() -> None:
    wines, parts = wines_and_folds()
    with Journal(settings().local / "search-bench.jsonl") as journal:
        seen = {(line["search"], line["fold"]) for line in journal.lines}
        wanted = [(name, fold) for fold in range(len(parts)) for name in SEARCHES if (name, fold) not in seen]
        for name, fold in [] if "report" in sys.argv else wanted:
            learn, score = parts[fold]
            line = {"search": name, "seed": fold, "fold": fold}
            line |= measure(name, fold, wines.iloc[learn], wines.iloc[score])
            journal.add(line)
            print(name, fold, line["trials"], line["picked"], line["cpu_seconds"], flush=True)
        report(journal.lines)


if __name__ == "__main__":
    main()
