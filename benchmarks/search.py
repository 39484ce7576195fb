"""Measure the search on the real distinct wines: `python -m benchmarks.search` with `WINE_DATA` set.

Nested: for each of the five folds on which the reference figures were measured, a search sees the other four alone.
Its pick, and the blend of its families, are fitted on those four and score the fifth, so nothing is chosen on the
wines that a figure is quoted on. A search with its finals and fits gets 120 CPU seconds of the whole process. Random
search, the old tutorial's space and Optuna's TPE have the same objective and the same seconds.

Each search adds a line to `.local/search-bench.jsonl`, so that an interrupted measurement goes on. With `report` as an
argument it only writes `results/search.json` and the figure from what is there.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import optuna
import pandas as pd
from hyperopt import hp, rand, tpe
from sklearn.pipeline import Pipeline

from wine_quality import data, splits, tuning
from wine_quality.config import settings
from wine_quality.journal import Journal
from wine_quality.models import build, fit, predict
from wine_quality.tuning import Objective, Trial

BUDGET, FOR_SEARCH = 120, 80  # CPU seconds: the rest is for the finals, the blend and the last fits
SEEDS = 5
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


def wanted() -> list[tuple[str, int, int]]:
    """Return the searches to make, as name, seed and fold: ours with each seed on each fold, the others on one each."""
    one_each = [(name, seed, seed) for seed in range(SEEDS) for name in SEARCHES]
    return one_each + [
        ("hyperopt", seed, fold) for seed in range(SEEDS) for fold in range(splits.FOLDS) if seed != fold
    ]


def main() -> None:
    config = settings()
    wines = splits.distinct_wines(data.load_wine(config).collection)
    parts = splits.folds(wines, 42)
    with Journal(config.local / "search-bench.jsonl") as journal:
        seen = {(line["search"], line["seed"], line["fold"]) for line in journal.lines}
        for name, seed, fold in [] if "report" in sys.argv else [search for search in wanted() if search not in seen]:
            learn, score = parts[fold]
            line = {"search": name, "seed": seed, "fold": fold}
            line |= measure(name, seed, wines.iloc[learn], wines.iloc[score])
            journal.add(line)
            print(name, seed, fold, line["trials"], line["picked"], line["cpu_seconds"], flush=True)


if __name__ == "__main__":
    main()
