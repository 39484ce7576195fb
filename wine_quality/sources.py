"""Where wine comes from: UCI, Kaggle, a folder of yours, or the committed sample.

The one setting is `WINE_DATA`: `auto` (the default: an earlier download, else UCI, else the sample), `uci`, `kaggle`,
`sample`, or a file or folder, counted from the project's root. A folder holds the UCI pair (`winequality-red.csv`,
`winequality-white.csv`), the Kaggle pair (`WineQuality.csv`, `winequalityN.csv`, or `train_wine_data.csv`,
`test_wine_data.csv`), or both; or else a table of your own, of one colour or two: `wines.csv`, or whatever single file
has all columns.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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
KAGGLE_COPIES = 5
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
    """A table of wine and where it came from.

    Attributes
    ----------
    table : DataFrame of shape (n wines, 13)
        All rows, duplicates included.
    source : str
        `uci`, `kaggle`, `sample` or `folder`.
    why : str
        One line for people: which wine this is and why it was taken.
    pair : tuple of two DataFrames, or None
        The training and validation set, where the wine came as a Kaggle pair.
    """

    table: pd.DataFrame
    source: str
    why: str
    pair: tuple[pd.DataFrame, pd.DataFrame] | None = None

    @property
    def collection(self) -> pd.DataFrame:
        """The wines as UCI lists them: of a Kaggle pair its second set, which is all of them with a few blanks."""
        return self.pair[1] if self.pair else self.table


def load_dataset(config: Settings) -> Dataset:
    """Load the wine that `config.data` names.

    Raises
    ------
    DataError
        The source is unknown, or a file of it is not the wine it should be.
    DownloadError
        `uci` or `kaggle` was requested by name and is not available now.
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
    if path.is_dir():
        return read_folder(path, "folder", f"the files in {path}")
    return own_table(path)


def own_path(config: Settings) -> Path:
    """Return the file or folder that `config.data` names, or say that there is none."""
    with suppress(OSError, RuntimeError, ValueError):  # no permission, too long, a home of no one, a null character
        path = ROOT / Path(config.data).expanduser()
        if path.exists():
            return path
    raise DataError(
        f"WINE_DATA={config.data}: no file or folder that you may open, and not one of {', '.join(SOURCES)}. Mend it."
    )


def own_table(path: Path) -> Dataset:
    """Read one table of your own, of one colour or two."""
    return Dataset(read_table(path, both_types=False), "folder", f"the file {path}")


def files_in(folder: Path) -> dict[str, Path]:
    """Return what is in a folder by its name in small letters, without `.gz`.

    Where two names differ in case alone, it is the tidier one; where one of them is packed, the other.
    """
    try:
        paths = sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() != ".gz", path.name))
        return {path.name.lower().removesuffix(".gz"): path for path in paths}
    except PermissionError:
        raise DataError(f"{folder}: you may not open it. Give yourself permission (chmod u+rx).") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be opened ({error.strerror}). Set WINE_DATA to another source.") from None


def load_any(config: Settings) -> Dataset:
    """Load an earlier download, else UCI, else the sample; `why` says which and why."""
    try:
        earlier = download.is_downloaded(config)
        folder = download.uci(config)
    except DownloadError as error:
        return sample(f"auto: no earlier download, and {error.what}")
    came = "auto: from an earlier download" if earlier else "auto: downloaded just now"
    return read_folder(folder, "uci", f"UCI Wine Quality, checksums verified ({came})")


def sample(reason: str) -> Dataset:
    """Load the committed synthetic sample."""
    return read_folder(SAMPLE, "sample", f"the sample, which is synthetic, not real wine ({reason})")


def read_folder(folder: Path, source: str, why: str) -> Dataset:
    """Read the UCI pair of a folder where there is one, else its Kaggle pair, else its one table of wines.

    Raises
    ------
    DataError
        There is none of these, or more than one table and so none to choose; or a file is not the wine it should be.
    """
    names = files_in(folder)
    uci = [names.get(name) for name in UCI_PAIR]
    if all(uci):
        table = pd.concat(
            [read_table(path, wine_type) for path, wine_type in zip(uci, TYPES, strict=True)], ignore_index=True
        )
        return Dataset(table, source, why)
    pair = kaggle_files(names)
    if pair:
        train, validation = (read_table(path) for path in pair)
        table = pd.concat([train, validation], ignore_index=True)
        return Dataset(table, source, why, pair=(train, validation))
    if table := single_table(folder, names):
        return own_table(table)
    if any(uci):
        missing = UCI_PAIR[0] if uci[1] else UCI_PAIR[1]
        raise DataError(f"{folder}: {missing} is missing, and the model needs both colours. Put it there.")
    wanted = " or ".join([*(" with ".join(pair) for pair in (UCI_PAIR, *KAGGLE_PAIRS)), "a table of your own"])
    raise DataError(f"{folder}: no wine here. Put in it {wanted}.")


def single_table(folder: Path, names: dict[str, Path]) -> Path | None:
    """Return the one table of your own in a folder: `wines.csv`, else the one with all columns, else the only one."""
    if OWN_TABLE in names:
        return names[OWN_TABLE]
    tables = {name: path for name, path in names.items() if name.endswith(TABLE_ENDINGS)}
    complete = [path for path in tables.values() if is_complete(path)]
    if len(complete) > 1:
        listed = " and ".join(sorted(path.name for path in complete))
        raise DataError(f"{folder}: more than one table of wine: {listed}. Name one of them: WINE_DATA={complete[0]}.")
    if not complete and len(tables) == 1:
        complete = [path for name, path in tables.items() if name not in UCI_PAIR]
    return complete[0] if complete else None


def is_complete(path: Path) -> bool:
    """Say whether a file is a table that has all columns."""
    try:
        return set(COLUMNS) <= column_names(path)
    except DataError:
        return False


def write_table(wines: pd.DataFrame, folder: Path) -> None:
    """Write wines into a folder as a table of its own, whole or not at all, for `read_folder` to read."""
    with atomic_write(folder / OWN_TABLE) as part:
        wines.to_csv(part, index=False)


def kaggle_files(names: dict[str, Path]) -> list[Path] | None:
    """Return the training and the validation file among the files of a folder, or None."""
    for pair in KAGGLE_PAIRS:
        if all(name.lower() in names for name in pair):
            return [names[name.lower()] for name in pair]
    return None


def load_pair(config: Settings) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return the old tutorial's training and validation set, and a line that says whether they are the real ones.

    The real ones where the source holds a Kaggle pair; else built from its wines by `kaggle_pair`.
    """
    path = None if config.data in SOURCES else own_path(config)
    if path and path.is_dir() and (pair := kaggle_files(files_in(path))):
        return *(read_table(path) for path in pair), "the real Kaggle pair"
    wine = load_dataset(config)
    if wine.pair:
        return *wine.pair, "the real Kaggle pair"
    return *kaggle_pair(wine.table, config.seed), f"a pair built as Kaggle's was, from {wine.why}"


def kaggle_pair(wines: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Build a training and a validation set the way the two Kaggle sets came about.

    Parameters
    ----------
    wines : DataFrame of shape (n wines, 13)
        The UCI wines, repeats included.
    seed : int
        Same seed, same pair.

    Returns
    -------
    train : DataFrame of shape (5 n, 13)
        The wines drawn 5 n times with replacement.
    validation : DataFrame of shape (n, 13)
        The wines themselves with 38 cells blanked, as many per column as in the real file (`KAGGLE_BLANKS`).
    """
    rng = np.random.default_rng(seed)
    train = wines.iloc[rng.integers(len(wines), size=KAGGLE_COPIES * len(wines))].reset_index(drop=True)
    validation = wines.reset_index(drop=True)
    for column, blanks in KAGGLE_BLANKS.items():
        validation.loc[rng.choice(len(wines), min(blanks, len(wines)), replace=False), column] = np.nan
    return train, validation


def table_checksum(wines: pd.DataFrame) -> str:
    """Return the sha256 sum of a table's values, whatever file they came from."""
    return hashlib.sha256(wines.to_csv(index=False, float_format="%.8g").encode()).hexdigest()


def blank_cells(wines: pd.DataFrame) -> int:
    """Return how many measurements are missing."""
    return int(wines[list(MEASUREMENTS)].isna().sum().sum())
