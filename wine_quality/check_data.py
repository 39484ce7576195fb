"""Check the dataset that `WINE_DATA` names, and print a summary: `python -m wine_quality.check_data`, or `make data`.

`make run` calls it with `--only-mine` before it starts any server. It then checks only your own file or folder, and
prints nothing unless there is an error.
"""

import sys

from wine_quality import sources
from wine_quality.command import exit_code
from wine_quality.config import settings
from wine_quality.schema import FEATURES, MEASUREMENTS, TYPE, TYPES
from wine_quality.sources import Dataset


def summary(dataset: Dataset) -> list[str]:
    """Return one line each about a dataset's source, rows, duplicates, blank cells and colours."""
    table = dataset.table
    blanks = table.filter(list(MEASUREMENTS)).isna().sum().to_dict()
    where = ", ".join(f"{count} {name}" for name, count in blanks.items() if count)
    colours = ", ".join(f"{(table[TYPE] == name).sum():,} {name}" for name in TYPES)
    return [
        f"source      {dataset.why}",
        f"rows        {len(table):,}",
        f"duplicates  {table.duplicated(FEATURES).sum():,} (same type and measurements as an earlier row)",
        f"blanks      {sum(blanks.values()):,} cells" + (f" ({where})" if where else ""),
        f"colours     {colours}",
    ]


def main() -> None:
    """Print the summary; with `--only-mine`, only check the data."""
    config = settings()
    if sys.argv[1:] != ["--only-mine"]:
        print(*summary(sources.load_dataset(config)), sep="\n")
    elif config.data not in sources.SOURCES:  # the run itself downloads the others, with retries
        sources.load_dataset(config)


if __name__ == "__main__":
    sys.exit(exit_code(main))
