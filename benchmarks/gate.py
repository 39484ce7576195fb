"""Measure the gate with real models on real data: `python -m benchmarks.gate` with `WINE_DATA` set.

Eight splits of the distinct rows, each by the hash of the row's key and a salt, give eight training and gate sets. On
each, 1,200 extra trees are grown, with the library's defaults. The trees of a forest are independent draws, so 300 of
them, drawn with replacement, predict like the same forest with another seed. A few fits therefore simulate thousands of
retrainings on unchanged data. Two worse models, which a better one should replace, are really fitted. The gate is the
package's own code. It takes about five CPU minutes.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.machine import write_results
from wine_quality import sources, splits
from wine_quality.comparison import REFITS, Gain, rejection_reason, tail
from wine_quality.config import settings
from wine_quality.metrics import gain_interval
from wine_quality.models import build, predict
from wine_quality.schema import FEATURES, TARGET

SPLITS, SEEDS, POOL, TREES = 8, 2, 1200, 300
CHAINS, RETRAININGS = 200, 20
USES = (1, 2, 5, 10, 20)  # of a gate set, after which a better model arrives
LIBRARY_DEFAULTS = {"n_estimators": 100, "max_features": 1.0}
WORSE = {"worse by a hundredth": 0.92, "worse by two": 0.65}  # the share of the training rows that they are fitted on


def salted_split(rows: pd.DataFrame, salt: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training set and the gate set of one salt, each row by its salted key."""
    keys = splits.row_keys(rows)
    digests = keys.map(lambda key: hashlib.blake2b(f"{salt}|{key}".encode(), digest_size=8).hexdigest())
    held = digests.map(lambda digest: int(digest, 16) / 2**64 < splits.GATE_SHARE)
    return rows.loc[~held], rows.loc[held]


def tree_predictions(train: pd.DataFrame, gate_set: pd.DataFrame) -> np.ndarray:
    """Return the predictions of each tree of a large forest for the gate set, of shape (trees, rows)."""
    forest = build("extra_trees", 1000, n_estimators=POOL).fit(train[FEATURES], train[TARGET])
    features = forest[:-1].transform(gate_set[FEATURES])
    return np.array([tree.predict(features) for tree in forest.named_steps["model"].estimators_], dtype="float32")


def worse_predictions(train: pd.DataFrame, gate_set: pd.DataFrame, share: float, seed: int) -> np.ndarray:
    """Return the gate-set predictions of a forest with library defaults, fitted to a share of the rows."""
    part = train.sample(frac=share, random_state=seed)
    return predict(build("extra_trees", seed, **LIBRARY_DEFAULTS).fit(part[FEATURES], part[TARGET]), gate_set)


@dataclass(frozen=True)
class Split:
    """What the trees and the worse models of one split predict for its gate set; `refits` are the gate's own."""

    actual: np.ndarray
    trees: np.ndarray
    worse: dict[str, list[np.ndarray]]
    refits: list[np.ndarray]

    def forests(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return the predictions of forests with other seeds, of shape (count, rows)."""
        return rng.multinomial(TREES, np.full(POOL, 1 / POOL), size=count).astype("float32") @ self.trees / TREES

    def rmse(self, predicted: np.ndarray) -> np.ndarray:
        """Return the RMSE of each model in the last axis but one."""
        return np.sqrt(np.mean((self.actual - predicted) ** 2, axis=-1))

    def seed_variance(self, forests: Any) -> float:
        """Return the variance between seeds, as `comparison.seed_variance` has it of so many refits."""
        return float(np.var(self.rmse(np.array(forests)), ddof=1))


def fit_split(rows: pd.DataFrame, salt: int) -> Split:
    """Fit the models of one split."""
    sets = salted_split(rows, salt)
    worse = {kind: [worse_predictions(*sets, share, seed) for seed in range(SEEDS)] for kind, share in WORSE.items()}
    refits = [worse_predictions(*sets, 1.0, seed) for seed in range(REFITS)]
    return Split(sets[1][TARGET].to_numpy(), tree_predictions(*sets), worse, refits)


def promotes(split: Split, rng: np.random.Generator, shipped: bool, minimum: float) -> bool:
    """Return whether a chain of retrainings with other seeds promotes, by the shipped gate or by the rows alone."""
    champion, *challengers = split.forests(1 + RETRAININGS, rng)
    promoted = False
    for use, challenger in enumerate(challengers, 1):
        seeds = 2 * split.seed_variance(split.forests(REFITS, rng)) if shipped else 0
        overall = Gain(*gain_interval(split.actual, champion, challenger, seeds, tail(use if shipped else 1)))
        if not rejection_reason(overall, {}, use, minimum):
            champion, promoted = challenger, True
    return promoted


def unchanged(all_splits: list[Split], shipped: bool, minimum: float) -> dict[str, int]:
    """Return how many chains of retrainings on unchanged data promote, as many chains on each split."""
    rng = np.random.default_rng(0)
    chains = [promotes(all_splits[number % SPLITS], rng, shipped, minimum) for number in range(CHAINS)]
    return {"promoting": sum(chains)}


def better(all_splits: list[Split], kind: str, minimum: float) -> dict[str, Any]:
    """Return how often the shipped forest replaces a worse champion, at each use of the gate set and within 20."""
    rng, gains, passed = np.random.default_rng(1), [], []
    for number in range(CHAINS):
        split = all_splits[number % SPLITS]
        champion, of_champion = split.worse[kind][number // SPLITS % SEEDS], split.seed_variance(split.refits)
        for use, challenger in enumerate(split.forests(RETRAININGS, rng), 1):
            variance = of_champion + split.seed_variance(split.forests(REFITS, rng))
            overall = Gain(*gain_interval(split.actual, champion, challenger, variance, tail(use)))
            gains.append(overall.gain)
            passed.append(not rejection_reason(overall, {}, use, minimum))
    by_chain = np.reshape(passed, (CHAINS, RETRAININGS))
    return {
        "gain": float(np.mean(gains)),
        "promoted_at_use": {str(use): float(by_chain[:, use - 1].mean()) for use in USES},
        "promoted_within": float(by_chain.any(axis=1).mean()),
    }


def gain_of_a_seed(all_splits: list[Split]) -> float:
    """Return the gain of one seed over another that 19 of 20 pairs of seeds don't exceed."""
    rng = np.random.default_rng(2)
    errors = [split.rmse(split.forests(400, rng)) for split in all_splits]
    return float(np.quantile(np.abs([one[::2] - one[1::2] for one in errors]), 0.95))


def main() -> None:
    rows, minimum = splits.distinct_rows(sources.load_dataset(settings()).collection), settings().minimum_gain
    all_splits = [fit_split(rows, salt) for salt in range(SPLITS)]
    write_results(
        "gate",
        {
            "rows": len(rows),
            "splits": SPLITS,
            "between_seeds": {"gain_of_a_seed_in_19_of_20": gain_of_a_seed(all_splits)},
            "minimum_gain": minimum,
            "chains": CHAINS,
            "unchanged": {
                "the gate": unchanged(all_splits, True, minimum),
                "without a minimum effect": unchanged(all_splits, True, 0),
                "the rows alone": unchanged(all_splits, False, 0),
            },
            "better": {kind: better(all_splits, kind, minimum) for kind in WORSE},
        },
    )


if __name__ == "__main__":
    main()
