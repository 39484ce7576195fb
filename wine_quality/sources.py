"""The sources of a dataset: UCI, Kaggle, your own file or folder, or the committed sample.

`WINE_DATA` chooses one: `auto` (the default: an earlier download, else UCI, else the sample), `uci`, `kaggle`,
`sample`, or a file or folder, relative to the project's root. A folder contains the UCI pair, a Kaggle pair (the file
names are below) or both; otherwise your own table, with one colour or two: `wines.csv`, or the only file that has all
columns.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from wine_quality import download
from wine_quality.config import ROOT, Settings
from wine_quality.errors import DataError, DownloadError
from wine_quality.files import atomic_write
from wine_quality.schema import COLUMNS, MEASUREMENTS, TYPES
from wine_quality.tables import TABLE_ENDINGS, column_names, read_table

SAMPLE = ROOT / "wine_data" / "sample"
UCI_PAIR = ("winequality-red.csv", "winequality-white.csv")
KAGGLE_PAIRS = (("WineQuality.csv", "winequalityN.csv"), ("train_wine_data.csv", "test_wine_data.csv"))
OWN_TABLE = "wines.csv"
SOURCES = ("auto", "uci", "kaggle", "sample")
Source = Literal["uci", "kaggle", "sample", "folder", "files"]
KAGGLE_COPIES = 5
KAGGLE_ROWS = 6497  # of the validation set, and its blank cells by column
KAGGLE_BLANKS = {
    "fixed_acidity": 10,
    "volatile_acidity": 8,
    "citric_acid": 3,
    "residual_sugar": 2,
    "chlorides": 2,
    "pH": 9,
    "sulphates": 4,
}


@dataclass(frozen=True)
class Dataset:
    """A table of shape (n rows, 13), duplicates included, and where it came from.

    `why` is a line for the user: which dataset this is and why it was chosen. `pair` is the training and validation
    set if the source is a Kaggle pair.
    """

    table: pd.DataFrame
    source: Source
    why: str
    pair: tuple[pd.DataFrame, pd.DataFrame] | None = None

    @property
    def collection(self) -> pd.DataFrame:
        """The rows as UCI lists them; of a Kaggle pair the second set, which has all of them, with a few blanks."""
        return self.pair[1] if self.pair else self.table


def load_dataset(config: Settings) -> Dataset:
    """Load the dataset that `config.data` names.

    Raise `DataError` if the source is unknown or one of its files is not a valid table, and `DownloadError` if `uci`
    or `kaggle` was requested by name and isn't available.
    """
    if config.data == "auto":
        return load_any(config)
    if config.data == "uci":
        return read_folder(download.uci(config), "uci", "UCI Wine Quality, checksums verified")
    if config.data == "kaggle":
        return read_folder(download.kaggle(config), "kaggle", "the two Kaggle sets")
    if config.data == "sample":
        return sample("requested by WINE_DATA=sample")
    path = own_path(config)
    return read_folder(path, "folder", f"the files in {path}") if path.is_dir() else own_table(path)


def own_path(config: Settings) -> Path:
    """Return the file or folder that `config.data` names, or raise `DataError`."""
    with suppress(OSError, RuntimeError, ValueError):  # no permission, too long, no such user, a null character
        path = ROOT / Path(config.data).expanduser()
        if path.exists():
            return path
    raise DataError(
        f"WINE_DATA={config.data}: no file or folder that you may open, and not one of {', '.join(SOURCES)}. Fix it."
    )


def own_table(path: Path) -> Dataset:
    """Read the user's own table, with one colour or two."""
    return Dataset(read_table(path, both_types=False), "folder", f"the file {path}")


def files_in(folder: Path) -> dict[str, Path]:
    """Return the files in a folder by lower-case name without `.gz`; uncompressed files take precedence."""
    try:
        paths = sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() != ".gz", path.name))
        return {path.name.lower().removesuffix(".gz"): path for path in paths}
    except PermissionError:
        raise DataError(f"{folder}: you may not open it. Give yourself permission (chmod u+rx).") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be opened ({error.strerror}). Set WINE_DATA to another source.") from None


def load_any(config: Settings) -> Dataset:
    """Load an earlier download, else UCI, else the sample; `why` says which one, and the reason."""
    try:
        earlier = download.is_downloaded(config)
        folder = download.uci(config)
    except DownloadError as error:
        return sample(f"auto: no earlier download, and {error.what}")
    origin = "auto: from an earlier download" if earlier else "auto: downloaded just now"
    return read_folder(folder, "uci", f"UCI Wine Quality, checksums verified ({origin})")


def sample(reason: str) -> Dataset:
    """Load the committed synthetic sample."""
    return read_folder(SAMPLE, "sample", f"the sample, which is synthetic, not real data ({reason})")


def read_folder(folder: Path, source: Source, why: str) -> Dataset:
    """Read the UCI pair of a folder if there is one, else its Kaggle pair, else its only table.

    Raise `DataError` if there is none of these, if there are several tables, or if a file is not a valid table.
    """
    names = files_in(folder)
    uci = [names[name] for name in UCI_PAIR if name in names]
    if len(uci) == 2:
        tables = [read_table(path, wine_type) for path, wine_type in zip(uci, TYPES, strict=True)]
        if {path.name for path in uci} == set(download.UCI_SHA256) and not download.damaged(folder):
            source = "uci"  # wherever the folder is
        return Dataset(pd.concat(tables, ignore_index=True), source, why)
    if pair := kaggle_files(names):
        train, validation = (read_table(path) for path in pair)
        return Dataset(pd.concat([train, validation], ignore_index=True), source, why, (train, validation))
    if table := single_table(folder, names):
        return own_table(table)
    if uci:
        missing = next(name for name in UCI_PAIR if name not in names)
        raise DataError(f"{folder}: {missing} is missing, and the model needs both colours. Put it into the folder.")
    wanted = "; or ".join([*(" and ".join(pair) for pair in (UCI_PAIR, *KAGGLE_PAIRS)), "one table of your own"])
    raise DataError(f"{folder}: no dataset here. Put into it: {wanted}.")


def single_table(folder: Path, names: dict[str, Path]) -> Path | None:
    """Return the user's own table in a folder: `wines.csv`, else the one with all columns, else the only one."""
    if OWN_TABLE in names:
        return names[OWN_TABLE]
    tables = {name: path for name, path in names.items() if name.endswith(TABLE_ENDINGS)}
    complete = []
    for path in tables.values():
        with suppress(DataError):
            complete += [path] if set(COLUMNS) <= column_names(path) else []
    if len(complete) > 1:
        listed = " and ".join(sorted(path.name for path in complete))
        raise DataError(f"{folder}: more than one table: {listed}. Name one of them: WINE_DATA={complete[0]}.")
    if not complete and len(tables) == 1:
        complete = [path for name, path in tables.items() if name not in UCI_PAIR]
    return complete[0] if complete else None


def write_table(table: pd.DataFrame, folder: Path) -> None:
    """Write a table into a folder, where `read_folder` finds it."""
    with atomic_write(folder / OWN_TABLE) as part:
        table.to_csv(part, index=False)


def kaggle_files(names: dict[str, Path]) -> list[Path] | None:
    """Return the training and validation files of a Kaggle pair among the files of a folder, or None."""
    for pair in KAGGLE_PAIRS:
        if all(name.lower() in names for name in pair):
            return [names[name.lower()] for name in pair]
    return None


def load_pair(config: Settings) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return the source's real Kaggle pair, or one built by `kaggle_pair`, and a line that says which."""
    path = None if config.data in SOURCES else own_path(config)
    if path and path.is_dir() and (pair := kaggle_files(files_in(path))):
        train, validation = pair
        return read_table(train), read_table(validation), "the real Kaggle pair"
    dataset = load_dataset(config)
    if dataset.pair:
        return *dataset.pair, "the real Kaggle pair"
    return *kaggle_pair(dataset.table, config.seed), f"a pair built like Kaggle's, from {dataset.why}"


def kaggle_pair(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Build a training and a validation set like the two Kaggle sets, from n UCI rows, duplicates included.

    The training set, of shape (5 n, 13), is 5 n rows drawn with replacement. The validation set is the n rows
    themselves with 38 blank cells, as many per column as in the real file (`KAGGLE_BLANKS`).
    """
    rng = np.random.default_rng(seed)
    train = table.iloc[rng.integers(len(table), size=KAGGLE_COPIES * len(table))].reset_index(drop=True)
    validation = table.reset_index(drop=True)
    for column, blanks in KAGGLE_BLANKS.items():
        validation.loc[rng.choice(len(table), min(blanks, len(table)), replace=False), column] = np.nan
    return train, validation


def table_checksum(table: pd.DataFrame) -> str:
    """Return the SHA-256 checksum of a table's values, whatever file they came from."""
    return hashlib.sha256(table.to_csv(index=False, float_format="%.8g").encode()).hexdigest()


def blank_cells(table: pd.DataFrame) -> int:
    """Return the number of missing measurements."""
    return int(table[list(MEASUREMENTS)].isna().sum().sum())
