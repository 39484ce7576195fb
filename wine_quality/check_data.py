"""Read and check the data that `WINE_DATA` names, and say what there is, without training anything.

Run it with `python -m wine_quality.check_data`, or `make data`. `make run` runs it with `--only-mine` before it starts
any server: it then checks a file or folder of yours, and says nothing where that is fine.
"""

import sys

from wine_quality import sources
from wine_quality.command import exit_code
from wine_quality.config import settings
from wine_quality.schema import FEATURES, MEASUREMENTS, TYPES
from wine_quality.sources import Dataset

ONLY_MINE = "--only-mine"


def summary(wine: Dataset) -> list[str]:
    """Return the source of some data, its rows, duplicates, blank cells and colours, a line each."""
    table = wine.table
    blanks = table[list(MEASUREMENTS)].isna().sum()
    where = ", ".join(f"{count} {name}" for name, count in blanks[blanks > 0].items())
    colours = ", ".join(f"{(table['type'] == name).sum():,} {name}" for name in TYPES)
    return [
        f"source      {wine.why}",
        f"rows        {len(table):,}",
        f"duplicates  {table.duplicated(FEATURES).sum():,} rows repeat another in all but quality",
        f"blanks      {blanks.sum():,} cells" + (f" ({where})" if where else ""),
        f"colours     {colours}",
    ]


def main() -> None:
    """Print the summary, or with `--only-mine` nothing."""
    config = settings()
    if sys.argv[1:] != [ONLY_MINE]:
        print(*summary(sources.load_dataset(config)), sep="\n")
    elif config.data not in sources.SOURCES:  # the run itself downloads, and tries again where that fails
        sources.load_dataset(config)


if __name__ == "__main__":
    sys.exit(exit_code(main))
