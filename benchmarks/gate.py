"""Measure the gate with real models on real data: `python -m benchmarks.gate` with `WINE_DATA` set.

Eight splits of the distinct rows, each by the hash of the row's key and a salt, give eight training and gate sets. On
each, 1,200 trees of the forest that `make run` ships are grown. The trees of a forest are independent draws, so 300 of
them, drawn with replacement, predict what the same forest would with another seed. That makes thousands of retrainings
on unchanged data out of a few fits; two forests with real seeds on each split check it. Two worse models, which a
better one should replace, are fitted for real as well. What the gate does with them is the package's own code.

Each fit is kept in `.local/gate-bench/`, so that an interrupted measurement goes on. Some five CPU minutes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.machine import write_results
from wine_quality import sources, splits
from wine_quality.comparison import REFITS, tail, too_little
from wine_quality.config import settings
from wine_quality.metrics import gain_interval
from wine_quality.models import build, predict
from wine_quality.schema import FEATURES, TARGET

SPLITS, SEEDS, POOL, TREES = 8, 2, 1200, 300
CHAINS, RETRAININGS = 200, 20
USES = (1, 2, 5, 10, 20)  # of a gate set, at which a better model comes
LIBRARY_DEFAULTS = {"n_estimators": 100, "max_features": 1.0}
REFITTED = "worse, refitted"  # as the gate fits the champion's parameters anew, on all training rows
KINDS = {  # the share of the training rows that a model is fitted on, and its parameters over the shipped ones
    "shipped": (1.0, {}),
    "worse by a hundredth": (0.92, LIBRARY_DEFAULTS),
    "worse by two": (0.65, LIBRARY_DEFAULTS),
    REFITTED: (1.0, LIBRARY_DEFAULTS),
}


def salted_split(rows: pd.DataFrame, salt: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training set and the gate set of one salt, a row's side by its salted key."""
    keys = splits.row_keys(rows)
    digests = keys.map(lambda key: hashlib.blake2b(f"{salt}|{key}".encode(), digest_size=8).hexdigest())
    held = digests.map(lambda digest: int(digest, 16) / 2**64 < splits.GATE_SHARE)
    return rows.loc[~held], rows.loc[held]


def kept(name: str, made: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    """Return an array that was kept under a name, or make it from the arguments and keep it."""
    path = Path(settings().local / "gate-bench" / f"{name.replace(', ', '-').replace(' ', '-')}.npy")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path.with_suffix(".part.npy"), made(*args))
        path.with_suffix(".part.npy").rename(path)
    return np.load(path)


def trees(train: pd.DataFrame, gate_set: pd.DataFrame) -> np.ndarray:
    """Return what each tree of a large forest predicts for the gate set, of shape (trees, rows)."""
    forest = build("extra_trees", 1000, n_estimators=POOL).fit(train[FEATURES], train[TARGET])
    features = forest[:-1].transform(gate_set[FEATURES])
    return np.array([tree.predict(features) for tree in forest["model"].estimators_], dtype="float32")


def predictions(train: pd.DataFrame, gate_set: pd.DataFrame, kind: str, seed: int) -> np.ndarray:
    """Return what a model of one kind and seed predicts for the gate set."""
    share, params = KINDS[kind]
    part = train.sample(frac=share, random_state=seed)
    return predict(build("extra_trees", seed, **params).fit(part[FEATURES], part[TARGET]), gate_set)


@dataclass(frozen=True)
class Split:
    """The models of one split: what the trees and each model predict for its gate set."""

    actual: np.ndarray
    trees: np.ndarray
    models: dict[str, list[np.ndarray]]

    def forests(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return the predictions of forests with other seeds, of shape (count, rows)."""
        return rng.multinomial(TREES, np.full(POOL, 1 / POOL), size=count).astype("float32") @ self.trees / TREES

    def rmse(self, predicted: np.ndarray) -> np.ndarray:
        """Return the RMSE of each model in the last axis but one."""
        return np.sqrt(np.mean((self.actual - predicted) ** 2, axis=-1))

    def seed_variance(self, forests: Any) -> float:
        """Return the variance between seeds, as `comparison.seed_variance` has it of so many refits."""
        return float(np.var(self.rmse(np.array(forests)), ddof=1))


def measured(rows: pd.DataFrame, split: int) -> Split:
    """Return the models of one split, fitted where they are not kept."""
    sets = salted_split(rows, split)
    models = {
        kind: [
            kept(f"{kind}-{split}-{seed}", predictions, *sets, kind, seed)
            for seed in range(REFITS if kind == REFITTED else SEEDS)
        ]
        for kind in KINDS
    }
    return Split(sets[1][TARGET].to_numpy(), kept(f"trees-{split}", trees, *sets), models)


def chain(split: Split, rng: np.random.Generator, shipped: bool, minimum: float) -> int:
    """Return how often a chain of retrainings with other seeds promotes; `shipped` is the gate, else the rows alone."""
    champion, *challengers = split.forests(1 + RETRAININGS, rng)
    promotions = 0
    for use, challenger in enumerate(challengers, 1):
        seeds = 2 * split.seed_variance(split.forests(REFITS, rng)) if shipped else 0
        gain, low, _ = gain_interval(split.actual, champion, challenger, seeds, tail(use if shipped else 1))
        if not too_little(gain, low, use, minimum):
            champion, promotions = challenger, promotions + 1
    return promotions


def chains(measured_splits: list[Split], shipped: bool, minimum: float) -> dict[str, float]:
    """Return what many chains of retrainings on unchanged data come to, as many on each split."""
    rng = np.random.default_rng(0)
    counts = [chain(measured_splits[number % SPLITS], rng, shipped, minimum) for number in range(CHAINS)]
    return {"promoting": int(np.count_nonzero(counts)), "promotions": int(np.sum(counts))}


def better(measured_splits: list[Split], kind: str, minimum: float) -> dict[str, Any]:
    """Return how often the shipped forest replaces a worse champion, at one use of the gate set and within 20."""
    rng, gains, passed = np.random.default_rng(1), [], []
    for number in range(CHAINS):
        split = measured_splits[number % SPLITS]
        champion = split.models[kind][number // SPLITS % SEEDS]
        of_champion = split.seed_variance(split.models[REFITTED])
        comparisons = []
        for use, challenger in enumerate(split.forests(RETRAININGS, rng), 1):
            variance = of_champion + split.seed_variance(split.forests(REFITS, rng))
            gain, low, _ = gain_interval(split.actual, champion, challenger, variance, tail(use))
            comparisons.append(not too_little(gain, low, use, minimum))
            gains.append(gain)
        passed.append(comparisons)
    shares = np.array(passed).mean(axis=0)
    return {
        "gain": float(np.mean(gains)),
        "promoted_at_use": {str(use): float(shares[use - 1]) for use in USES},
        "promoted_within": float(np.any(passed, axis=1).mean()),
    }


def between_seeds(measured_splits: list[Split]) -> dict[str, float]:
    """Return the spread of the RMSE between seeds, by real ones and by other trees, and of the gain of a seed."""
    rng = np.random.default_rng(2)
    drawn = [split.rmse(split.forests(400, rng)) for split in measured_splits]
    gains = np.concatenate([one[::2] - one[1::2] for one in drawn])
    real = np.mean([np.var(split.rmse(np.array(split.models["shipped"])), ddof=1) for split in measured_splits])
    return {
        "rmse_sd_of_real_seeds": float(np.sqrt(real)),
        "rmse_sd_of_other_trees": float(np.sqrt(np.mean([np.var(one, ddof=1) for one in drawn]))),
        "gain_of_a_seed_in_19_of_20": float(np.quantile(np.abs(gains), 0.95)),
    }


def main() -> None:
    rows = splits.distinct_rows(sources.load_dataset(settings()).collection)
    done = [measured(rows, split) for split in range(SPLITS)]
    minimum = settings().minimum_gain
    write_results(
        "gate",
        {
            "rows": len(rows),
            "splits": SPLITS,
            "gate_rows": [len(split.actual) for split in done],
            "between_seeds": between_seeds(done),
            "minimum_gain": minimum,
            "chains": CHAINS,
            "retrainings": RETRAININGS,
            "unchanged": {
                "the gate": chains(done, True, minimum),
                "without a minimum effect": chains(done, True, 0),
                "the rows alone": chains(done, False, 0),
            },
            "better": {kind: better(done, kind, minimum) for kind in ("worse by a hundredth", "worse by two")},
        },
    )


if __name__ == "__main__":
    main()
