"""How good is the blend that `make run` ships? `python -m benchmarks.blend` with `WINE_DATA` set.

Its parameters were tuned by hand on rows that its cross-validated scores come from, too. This benchmark chooses them
again by nested cross-validation: in each of the five reference folds, the parameters of forest and kernel ridge and the
weight of each are chosen on the other four folds and scored on the fifth. No score comes from rows that were used to
choose.
"""

import time
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import nnls
from sklearn.metrics import r2_score
from sklearn.metrics import root_mean_squared_error as rmse

from benchmarks.machine import write_results
from wine_quality import sources, splits
from wine_quality.config import settings
from wine_quality.metrics import rmse_gain
from wine_quality.models import BLEND, MEMBERS, build, fit, fit_predict, in_row_order, predict
from wine_quality.schema import TARGET
from wine_quality.tuning import Candidate, Objective

SEED = 42  # of the folds on which the reference figures were measured
FOREST, RIDGE = MEMBERS
GRIDS: dict[str, list[dict[str, Any]]] = {
    FOREST: [{"max_features": share} for share in (0.35, 0.5, 0.65)],
    RIDGE: [{"alpha": alpha, "length_scale": length} for alpha, length in product((0.15, 0.25, 0.4), (5.0, 7.0, 10.0))],
}


def choose(learn: pd.DataFrame) -> tuple[list[Candidate], np.ndarray]:
    """Return the best candidate of each member by cross-validation on some rows, and the best weights there."""
    objective, actual, chosen = Objective(learn, SEED), learn[TARGET].to_numpy(dtype="float64"), []
    for name, grid in GRIDS.items():
        candidates = [Candidate(name, params) for params in grid]
        chosen.append(min(candidates, key=lambda one: rmse(actual, objective.predictions(one))))
    weights, _ = nnls(np.column_stack([objective.predictions(one) for one in chosen]), actual)
    return chosen, weights


def evaluate(learn: pd.DataFrame, score: pd.DataFrame) -> tuple[dict[str, np.ndarray], dict[str, Any], float]:
    """Return the predictions of the shipped blend and of the one chosen on `learn`, the choice, and CPU seconds."""
    started = time.process_time()
    shipped = predict(fit(build(BLEND, SEED), learn), score)
    cpu = time.process_time() - started
    chosen, weights = choose(learn)
    members = [fit_predict(build(one.name, SEED, **one.params), learn, score) for one in chosen]
    nested = np.column_stack(members) @ weights
    choice: dict[str, Any] = {one.name: one.params for one in chosen} | {"weights": weights.round(3).tolist()}
    print(choice, flush=True)
    return {"shipped": shipped, "nested": nested}, choice, cpu


def main() -> None:
    rows = splits.distinct_rows(sources.load_dataset(settings()).collection)
    folds, actual = splits.folds(rows, SEED), rows[TARGET].to_numpy()
    outcomes = [evaluate(*(rows.iloc[part] for part in fold)) for fold in folds]
    trees = [fit_predict(build("extra_trees_tuned", SEED), *(rows.iloc[part] for part in fold)) for fold in folds]
    tuned = in_row_order(trees, folds, len(rows))
    results: dict[str, Any] = {}
    for name in ("shipped", "nested"):
        predicted = in_row_order([one[name] for one, _, _ in outcomes], folds, len(rows))
        gain = rmse_gain(actual, tuned, predicted, SEED)
        results[name] = {"rmse": rmse(actual, predicted), "r2": r2_score(actual, predicted), "gain_over_trees": gain}
    cpu = [seconds for _, _, seconds in outcomes]
    results |= {"cpu_seconds": {"min": min(cpu), "max": max(cpu)}, "chosen": [choice for _, choice, _ in outcomes]}
    write_results("blend", {"rows": len(rows), **results})


if __name__ == "__main__":
    main()
