"""Is a challenger better? A minimum effect, an interval over rows and seeds, and a correction for repeated use."""

from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from wine_quality.metrics import gain_interval
from wine_quality.models import fit, predict, shares
from wine_quality.schema import TARGET

FALSE_PROMOTIONS = 0.05  # the chance that any of all comparisons on one gate set promotes what is no better
REFITS = 4  # with other seeds: enough to see how far they spread, and a few seconds for a forest


def tail(use: int) -> float:
    """Return the chance of a false promotion that the n-th comparison on one gate set may take.

    1/2 + 1/6 + 1/12 + … = 1: all comparisons on a gate set together take `FALSE_PROMOTIONS` at most (Bonferroni's
    bound, spent in unequal parts). The first has the tail of the usual 95 % interval.
    """
    return FALSE_PROMOTIONS / (use * (use + 1))


def confidence(use: int) -> float:
    """Return the level of the interval of the n-th comparison on one gate set, 0 to 1."""
    return 1 - 2 * tail(use)


def rejection_reason(gain: float, low: float, use: int, minimum: float) -> str:
    """Return why a gain is not enough for a promotion, or an empty text."""
    if gain < minimum:
        return f"its gain is below the minimum effect of {minimum:g}"
    level = f"{100 * confidence(use):.4g} % level, use {use} of this gate set"
    return f"not better by more than chance ({level})" if low <= 0 else ""


def gain(
    challenger: Pipeline, champion: Pipeline | None, train: pd.DataFrame, gate_set: pd.DataFrame, seed: int, use: int
) -> tuple[float, float, float]:
    """Return by how much a challenger's RMSE on the gate set is below the champion's, with an interval (low, high).

    Without a champion the opponent is the mean of the training set. The level of the interval follows from `use`, the
    number of this comparison on the gate set.
    """
    pipelines, baseline = [challenger], np.full(len(gate_set), train[TARGET].mean())
    if champion is not None:
        pipelines, baseline = [challenger, champion], predict(champion, gate_set)
    variance = between_seeds(pipelines, train, gate_set, seed)
    return gain_interval(gate_set[TARGET].to_numpy(), baseline, predict(challenger, gate_set), variance, tail(use))


def between_seeds(pipelines: list[Pipeline], train: pd.DataFrame, gate_set: pd.DataFrame, seed: int) -> float:
    """Return the variance that training seeds give the difference of the pipelines' RMSE on the gate set."""
    variances: dict[str, float] = {}  # pipelines that differ only in the seed have the same one
    kinds = [str(joblib.hash(with_seed(pipeline, 0))) for pipeline in pipelines]
    for kind, pipeline in zip(kinds, pipelines, strict=True):
        if kind not in variances:
            variances[kind] = seed_variance(pipeline, train, gate_set, seed)
    return sum(variances[kind] for kind in kinds)


def seed_variance(pipeline: Pipeline, train: pd.DataFrame, gate_set: pd.DataFrame, seed: int) -> float:
    """Return the variance of a pipeline's RMSE on the gate set between training seeds, 0 if nothing in it is random.

    Of a blend, only the members that are random are fitted again.
    """
    if not seed_names(pipeline):
        return 0.0
    members = shares(pipeline)
    fixed = sum(share * predict(member, gate_set) for share, member in members if not seed_names(member))
    random = [(share, member) for share, member in members if seed_names(member)]

    def rmse(other: int) -> float:
        refitted = [share * predict(fit(with_seed(member, other), train), gate_set) for share, member in random]
        return root_mean_squared_error(gate_set[TARGET], fixed + sum(refitted))

    others = np.random.SeedSequence(seed).generate_state(REFITS)
    with threadpool_limits(1):
        errors = joblib.Parallel(n_jobs=-1, prefer="threads")(joblib.delayed(rmse)(int(other)) for other in others)
    return float(np.var(np.array(errors, dtype="float64"), ddof=1))


def with_seed(pipeline: Pipeline, seed: int) -> Pipeline:
    """Return an unfitted copy of a pipeline with another seed."""
    copy: Any = clone(pipeline)
    return copy.set_params(**dict.fromkeys(seed_names(pipeline), seed))


def seed_names(pipeline: Pipeline) -> list[str]:
    """Return the names of the parameters of a pipeline that hold a seed."""
    params = pipeline.get_params().items()
    return [name for name, value in params if name.endswith("random_state") and value is not None]
