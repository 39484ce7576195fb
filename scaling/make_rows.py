"""Generate a dataset that is large enough to need scaling: `make rows ROWS=10000000 ROWS_AT=folder`.

The first rows are those of `WINE_DATA`. Every further row is one of them with a little noise on each measurement,
within its physical bounds, and the same target. Some rows are exact copies of the previous one, and a few cells are
blank, as often as in Kaggle's file. The same data, seed and number of rows give the same parts. They are marked as
synthetic, so that a model trained on them never replaces one trained on real data.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from wine_quality.command import exit_code
from wine_quality.config import ROOT, settings
from wine_quality.errors import DataError, SettingsError
from wine_quality.files import translate_disk_errors
from wine_quality.parts import SYNTHETIC
from wine_quality.schema import MEASUREMENTS
from wine_quality.sources import KAGGLE_BLANKS, KAGGLE_ROWS, load_dataset

PART = 250_000  # rows
NOISE = 0.05  # in standard deviations of the column
COPIES = 0.01  # the share of rows that are exact copies
DIGITS = 8  # significant digits, as many as a row key uses


def make_part(real: pd.DataFrame, rows: int, number: int, seed: int) -> pd.DataFrame:
    """Return the rows of one part, of shape (n rows, 13); part 0 begins with the real rows."""
    rng = np.random.default_rng([seed, number])
    begin = real.head(rows) if number == 0 else real.head(0)
    made = real.iloc[rng.integers(len(real), size=rows - len(begin))].reset_index(drop=True)
    for name, bounds in MEASUREMENTS.items():
        moved = made[name] + rng.normal(scale=NOISE * real[name].std(), size=len(made))
        made[name] = significant(moved.clip(bounds.low, bounds.high).to_numpy())
    copies = np.flatnonzero(rng.random(len(made)) < COPIES)
    made.iloc[copies[copies > 0]] = made.iloc[copies[copies > 0] - 1].to_numpy()
    for name, blanks in KAGGLE_BLANKS.items():
        made.loc[rng.random(len(made)) < blanks / KAGGLE_ROWS, name] = np.nan
    return pd.concat([begin, made.astype(begin.dtypes.to_dict())], ignore_index=True)


def significant(values: np.ndarray) -> np.ndarray:
    """Return numbers rounded to eight significant digits."""
    size = np.floor(np.log10(np.where(values == 0, 1, np.abs(values))))
    scale = 10 ** (DIGITS - 1 - size)
    return np.round(values * scale) / scale


def write_rows(real: pd.DataFrame, rows: int, folder: Path, seed: int) -> None:
    """Write a dataset into a new folder, which appears complete or not at all.

    Raise `DataError` if the folder exists or the disk is full.
    """
    if folder.exists():
        raise DataError(f"{folder}: already exists. Delete it, or choose another folder: ROWS_AT=…")
    schema = pa.Schema.from_pandas(real, preserve_index=False).with_metadata({SYNTHETIC: b"true"})
    with translate_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".rows-") as aside,
            tqdm(total=rows, desc="rows", unit=" rows", unit_scale=True, disable=None) as progress,
        ):
            whole = Path(aside) / folder.name
            whole.mkdir()
            for number, start in enumerate(range(0, rows, PART)):
                part = make_part(real, min(PART, rows - start), number, seed)
                table = pa.Table.from_pandas(part, schema, preserve_index=False)
                pq.write_table(table, whole / f"part-{number:05}.parquet")
                progress.update(len(part))
            whole.rename(folder)


def main() -> None:
    """Write the number of rows in the first argument into the folder in the second one."""
    count, folder = sys.argv[1:]
    if not count.isdecimal() or int(count) == 0:
        raise SettingsError(f"ROWS={count}: not a number of rows. Give one, such as ROWS=1000000.")
    if "://" in folder:
        raise SettingsError(f"ROWS_AT={folder}: give a folder on this machine. Copy it to a bucket afterwards.")
    config = settings()
    dataset = load_dataset(config)
    write_rows(dataset.collection, int(count), ROOT / Path(folder).expanduser(), config.seed)
    print(f"rows      {int(count):,} in {folder}, generated from {dataset.why}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
