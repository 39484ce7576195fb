"""Make the committed sample: wine that never was, drawn from a model of the real wine in `WINE_DATA`.

For each colour, the 11 measurements and the quality of the distinct wines are turned into normal scores (a quantile
transform), a mixture of Gaussians is fitted to them, and new wines are drawn from it and turned back. Then they are
rounded as the real ones are, and repeated as often as the real ones repeat.

Run it with `make sample`, on a folder of real wine: `make sample WINE_DATA=path/to/folder`.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import QuantileTransformer

from wine_quality.command import exit_code
from wine_quality.config import settings
from wine_quality.errors import DataError
from wine_quality.files import atomic_write
from wine_quality.schema import MEASUREMENTS, TARGET, TYPES
from wine_quality.sources import SAMPLE, UCI_PAIR, load_dataset
from wine_quality.splits import distinct_rows, row_keys

COMPONENTS = 16
NUMBERS = [*MEASUREMENTS, TARGET]


def decimals(values: np.ndarray) -> int:
    """Return with how many decimals, at most 5, a column is written: what all but one in a hundred values need."""
    for places in range(5):
        if np.isclose(values, np.round(values, places), rtol=0, atol=1e-9).mean() >= 0.99:
            return places
    return 5


def draw(real: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Return made-up wines of one colour, from its distinct real wines `real`: distinct, possible, none a real one.

    It draws `rows` of them, of which some fall away.
    """
    rng = np.random.default_rng(seed)
    # quality is a whole number, and a quantile transform needs a spread
    jittered = real[NUMBERS].assign(quality=real[TARGET] + rng.uniform(-0.5, 0.5, len(real)))
    normal = QuantileTransformer(n_quantiles=len(real), output_distribution="normal", random_state=seed)
    mixture = GaussianMixture(min(COMPONENTS, len(real) // 20), random_state=seed, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one more round would not change what it is for
        mixture.fit(normal.fit_transform(jittered))
    # the mixture draws its tails a little wide: keep the ranks it gives, and take the values of the real column
    scores = QuantileTransformer(n_quantiles=rows, output_distribution="normal").fit_transform(mixture.sample(rows)[0])
    made = pd.DataFrame(normal.inverse_transform(scores), columns=NUMBERS).sample(frac=1, random_state=seed)
    for name in MEASUREMENTS:
        made[name] = made[name].round(decimals(real[name].to_numpy()))
    made[TARGET] = made[TARGET].round().clip(real[TARGET].min(), real[TARGET].max())
    made.insert(0, "type", real["type"].iloc[0])
    possible = made["free_sulfur_dioxide"] <= made["total_sulfur_dioxide"]
    keys = row_keys(made)
    return made.loc[possible & ~keys.isin(row_keys(real)) & ~keys.duplicated()].reset_index(drop=True)


def copies(real: pd.DataFrame) -> np.ndarray:
    """Return how often each distinct wine of a table stands in it, in order of first appearance."""
    return row_keys(real).value_counts(sort=False).to_numpy()


def sample_of(real: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return made-up wines of one colour, as many as the real ones and repeated as those are, in random order."""
    counts = np.random.default_rng(seed).permutation(copies(real))
    made = draw(distinct_rows(real), 110 * len(counts) // 100, seed)  # a tenth more, because some fall away
    if len(made) < len(counts):
        raise DataError(f"only {len(made)} of {len(counts)} made-up wines differ from the real ones. Try another seed.")
    rows = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    return made.iloc[rows].reset_index(drop=True)


def write(made: pd.DataFrame, path: Path) -> None:
    """Write wines of one colour as UCI does: semicolons, names with spaces, no column for the type."""
    table = made.drop(columns="type").astype({TARGET: int}).rename(columns=lambda name: name.replace("_", " "))
    with atomic_write(path) as part:
        header = ";".join(f'"{name}"' for name in table.columns)
        part.write_text(f"{header}\n{table.to_csv(sep=';', index=False, header=False, float_format='%.10g')}")


def main() -> None:
    """Write the sample."""
    config = settings()
    dataset = load_dataset(config)
    if dataset.source == "sample":
        raise DataError("the sample is not made of itself. Name real wine: make sample WINE_DATA=folder")
    for name, colour in zip(UCI_PAIR, TYPES, strict=True):
        write(sample_of(dataset.table.loc[dataset.table["type"] == colour], config.seed), SAMPLE / name)
    print(f"made from {dataset.why}: {SAMPLE}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
