"""Check the data that `WINE_DATA` names, and print a summary: `python -m wine_quality.check_data`, or `make data`.

`make run` runs it with `--only-mine` before it starts any server: it then checks a file or folder of yours, silently.
"""

import sys

from wine_quality import sources
from wine_quality.command import exit_code
from wine_quality.config import settings
from wine_quality.schema import FEATURES, MEASUREMENTS, TARGET, TYPE, TYPES
from wine_quality.sources import Dataset


def summary(dataset: Dataset) -> list[str]:
    """Return the source of a dataset, its rows, duplicates, blank cells and colours, a line each."""
    table = dataset.table
    blanks = table.filter(list(MEASUREMENTS)).isna().sum().to_dict()
    where = ", ".join(f"{count} {name}" for name, count in blanks.items() if count)
    colours = ", ".join(f"{(table[TYPE] == name).sum():,} {name}" for name in TYPES)
    return [
        f"source      {dataset.why}",
        f"rows        {len(table):,}",
        f"duplicates  {table.duplicated(FEATURES).sum():,} rows repeat another in all but {TARGET}",
        f"blanks      {sum(blanks.values()):,} cells" + (f" ({where})" if where else ""),
        f"colours     {colours}",
    ]


def main() -> None:
    """Print the summary, or with `--only-mine` nothing."""
    config = settings()
    if sys.argv[1:] != ["--only-mine"]:
        print(*summary(sources.load_dataset(config)), sep="\n")
    elif config.data not in sources.SOURCES:  # the run itself downloads, and tries again where that fails
        sources.load_dataset(config)


if __name__ == "__main__":
    sys.exit(exit_code(main))
