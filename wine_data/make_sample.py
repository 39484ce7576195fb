"""Generate the committed sample: synthetic rows drawn from a model fitted to the real data in `WINE_DATA`.

For each colour, a quantile transform turns the 11 measurements and the quality of the distinct rows into normal scores,
a mixture of Gaussians is fitted to the scores, and the samples drawn from it are transformed back. They are rounded to
the decimals of the real columns, and duplicated as often as the real rows are.

Run it with `make sample` on the real data: `make sample WINE_DATA=path/to/folder`.
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
    """Return the number of decimals, at most 5, that 99 % of the values of a column need."""
    for places in range(5):
        if np.isclose(values, np.round(values, places), rtol=0, atol=1e-9).mean() >= 0.99:
            return places
    return 5


def draw(real: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Return synthetic rows of one colour, drawn from a model of its distinct real rows `real`.

    Of the `rows` rows drawn, duplicates, impossible rows and copies of a real row are removed.
    """
    rng = np.random.default_rng(seed)
    # quality is a whole number, and a quantile transform needs a spread
    jittered = real[NUMBERS].assign(quality=real[TARGET] + rng.uniform(-0.5, 0.5, len(real)))
    normal = QuantileTransformer(n_quantiles=len(real), output_distribution="normal", random_state=seed)
    mixture = GaussianMixture(min(COMPONENTS, len(real) // 20), random_state=seed, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an approximate fit is good enough for a sample
        mixture.fit(normal.fit_transform(jittered))
    # the tails of the mixture are too wide: use only the ranks of its draws, with the values of the real column
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
    """Return how often each distinct row of a table occurs, in order of first appearance."""
    return row_keys(real).value_counts(sort=False).to_numpy()


def sample_of(real: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return synthetic rows of one colour, as many as the real ones and as often duplicated, in random order."""
    counts = np.random.default_rng(seed).permutation(copies(real))
    made = draw(distinct_rows(real), 110 * len(counts) // 100, seed)  # a tenth more, because some are removed
    if len(made) < len(counts):
        raise DataError(f"only {len(made)} of {len(counts)} synthetic rows are not real rows. Try another seed.")
    rows = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    return made.iloc[rows].reset_index(drop=True)


def write(made: pd.DataFrame, path: Path) -> None:
    """Write the rows of one colour in UCI's format: semicolons, names with spaces, no column for the type."""
    table = made.drop(columns="type").astype({TARGET: int}).rename(columns=lambda name: name.replace("_", " "))
    with atomic_write(path) as part:
        header = ";".join(f'"{name}"' for name in table.columns)
        part.write_text(f"{header}\n{table.to_csv(sep=';', index=False, header=False, float_format='%.10g')}")


def main() -> None:
    """Generate and write the sample."""
    config = settings()
    dataset = load_dataset(config)
    if dataset.source == "sample":
        raise DataError("the sample can't be generated from itself. Name the real data: make sample WINE_DATA=folder")
    for name, colour in zip(UCI_PAIR, TYPES, strict=True):
        write(sample_of(dataset.table.loc[dataset.table["type"] == colour], config.seed), SAMPLE / name)
    print(f"generated from {dataset.why}: {SAMPLE}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
