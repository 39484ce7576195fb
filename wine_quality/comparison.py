"""The rules of the gate: a minimum effect, an interval over rows and seeds, and a correction for repeated use.

The same comparison on each slice of the gate set finds the rows on which a challenger is worse; the slices share the
probability of an error.
"""

from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from wine_quality.metrics import gain_interval
from wine_quality.models import fit, predict, shares, sklearn_threads
from wine_quality.schema import TARGET
from wine_quality.slices import slices

FALSE_PROMOTIONS = 0.05  # probability that all comparisons on a gate set together promote a model that is no better
MIN_SLICE = 30  # rows: with fewer, the normal approximation of the interval is too rough
REFITS = 4  # with other seeds: enough to estimate the variance, and a few seconds for a forest


def tail(use: int) -> float:
    """Return the probability of a false promotion allowed for the n-th comparison on one gate set.

    1/2 + 1/6 + 1/12 + … = 1, so that all comparisons on a gate set together have `FALSE_PROMOTIONS` at most (a
    Bonferroni correction with unequal parts). The first has the tail of the usual 95 % interval.
    """
    return FALSE_PROMOTIONS / (use * (use + 1))


def confidence(use: int) -> float:
    """Return the confidence level of the interval for the n-th comparison on one gate set, 0 to 1."""
    return 1 - 2 * tail(use)


@dataclass(frozen=True)
class Gain:
    """By how much a challenger's RMSE is lower than its opponent's, with an interval, in points of quality."""

    gain: float
    low: float
    high: float


def rejection_reason(overall: Gain, by_slice: dict[str, Gain], use: int, minimum: float) -> str:
    """Return why a challenger is not promoted, or an empty string."""
    if overall.gain < minimum:
        return f"its gain is below the minimum effect of {minimum:g}"
    if overall.low <= 0:
        level = f"{100 * confidence(use):.4g} % level, comparison {use}"
        return f"not significantly better ({level})"
    worse = {name: one for name, one in by_slice.items() if one.high < 0 and one.gain <= -minimum}
    lines = [f"{name} (RMSE higher by {-one.gain:.3f})" for name, one in worse.items()]
    return f"significantly worse on {', '.join(lines)}" if lines else ""


def gains(
    challenger: Pipeline, champion: Pipeline | None, train: pd.DataFrame, gate_set: pd.DataFrame,
    seed: int, use: int, column: str = "",
) -> tuple[Gain, dict[str, Gain]]:  # fmt: skip
    """Return a challenger's gain over the champion on the gate set, and on each slice of it with enough rows.

    Without a champion the opponent is the mean of the training set, and there are no slices: on some of them a constant
    has a low error by construction. The level of the interval depends on `use`, the number of this comparison on the
    gate set. The slices, including those of `column` if given, together have the same error probability as the whole.
    """
    pipelines, theirs, ours = [challenger], np.full(len(gate_set), train[TARGET].mean()), predict(challenger, gate_set)
    if champion is not None:
        pipelines, theirs = [challenger, champion], predict(champion, gate_set)
    refits = refit_each(pipelines, train, gate_set, seed)
    overall, by_slice = compare_scores(gate_set, theirs, ours, refits, use, column)
    return overall, by_slice if champion is not None else {}


def compare_scores(
    rows: pd.DataFrame, theirs: np.ndarray, ours: np.ndarray, refits: list[np.ndarray], use: int, column: str = ""
) -> tuple[Gain, dict[str, Gain]]:
    """Return the gain of one model's scores over another's on labelled rows, and on each slice with enough rows.

    `refits` holds the scores of the same models trained with other seeds, for the variance between seeds.
    """
    actual = rows[TARGET].to_numpy()
    large = {name: mask for name, mask in slices(rows, column).items() if mask.sum() >= MIN_SLICE}

    def on(rows: np.ndarray, chance: float) -> Gain:
        variance = sum(rmse_variance(actual[rows], one[:, rows]) for one in refits)
        return Gain(*gain_interval(actual[rows], theirs[rows], ours[rows], variance, chance))

    by_slice = {name: on(mask, tail(use) / len(large)) for name, mask in large.items()}
    return on(np.ones(len(actual), dtype=bool), tail(use)), by_slice


def rmse_variance(actual: np.ndarray, predicted: np.ndarray) -> float:
    """Return the variance of the RMSE between k refits, with predictions of shape (k, n rows); 0 if there are none."""
    errors = np.sqrt(np.mean((actual - predicted) ** 2, axis=1))
    return float(np.var(errors, ddof=1)) if len(errors) else 0.0


def refit_each(pipelines: list[Pipeline], train: pd.DataFrame, gate_set: pd.DataFrame, seed: int) -> list[np.ndarray]:
    """Return `refitted_predictions` of each pipeline; pipelines that differ only in the seed share them."""
    refits: dict[str, np.ndarray] = {}
    kinds = [str(joblib.hash(with_seed(pipeline, 0))) for pipeline in pipelines]
    for kind, pipeline in zip(kinds, pipelines, strict=True):
        if kind not in refits:
            refits[kind] = refitted_predictions(pipeline, train, gate_set, seed)
    return [refits[kind] for kind in kinds]


def seed_variance(pipeline: Pipeline, train: pd.DataFrame, gate_set: pd.DataFrame, seed: int) -> float:
    """Return the variance of a pipeline's RMSE on the gate set between training seeds, 0 if it has no seed."""
    return rmse_variance(gate_set[TARGET].to_numpy(), refitted_predictions(pipeline, train, gate_set, seed))


def refitted_predictions(pipeline: Pipeline, train: pd.DataFrame, gate_set: pd.DataFrame, seed: int) -> np.ndarray:
    """Return the predictions of refits with other seeds, of shape (k refits, n rows); k = 0 if it has no seed.

    In a blend, only the members that have a seed are fitted again.
    """
    if not seed_names(pipeline):
        return np.empty((0, len(gate_set)))
    members = shares(pipeline)
    fixed = sum(share * predict(member, gate_set) for share, member in members if not seed_names(member))
    random = [(share, member) for share, member in members if seed_names(member)]

    def refit(other: int) -> np.ndarray:
        refitted = [share * predict(fit(with_seed(member, other), train), gate_set) for share, member in random]
        return fixed + np.sum(refitted, axis=0)

    others = np.random.SeedSequence(seed).generate_state(REFITS)
    with threadpool_limits(1), sklearn_threads():
        calls = (joblib.delayed(refit)(int(other)) for other in others)
        return np.array(joblib.Parallel(n_jobs=-1, prefer="threads")(calls))


def with_seed(pipeline: Pipeline, seed: int) -> Pipeline:
    """Return an unfitted copy of a pipeline with another seed."""
    copy: Any = clone(pipeline)
    return copy.set_params(**dict.fromkeys(seed_names(pipeline), seed))


def seed_names(pipeline: Pipeline) -> list[str]:
    """Return the names of the parameters of a pipeline that hold a seed."""
    params = pipeline.get_params().items()
    return [name for name, value in params if name.endswith("random_state") and value is not None]
