"""Derived features, which wine chemistry calculates from the eleven measurements of a sample."""

from typing import Any

import pandas as pd

PKA_SULFUROUS_ACID = 1.81  # at 20 °C, from winemaking textbooks
ALCOHOL_LIGHTENS = 0.00126  # g/mL for each per cent by volume
EXTRACT_PER_DENSITY = 2580  # g/L for each g/mL by which the wine without its alcohol is denser than water
LEAST_SULFUR_DIOXIDE, LEAST_CHLORIDES = 1.0, 0.001  # mg/L and g/L: below them, a ratio would be noise

CHEMISTRY = {
    "molecular_sulfur_dioxide": "mg/L",
    "bound_sulfur_dioxide": "mg/L",
    "free_share": "of the sulfur dioxide",
    "volatile_share": "of the fixed acidity",
    "citric_share": "of the fixed acidity",
    "sugar_to_acid": "ratio",
    "sulphates_to_chlorides": "ratio",
    "extract": "g/L",
    "dry_extract": "g/L",
}


def with_chemistry(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `FEATURES` with the columns of `CHEMISTRY`, blank where a measurement they need is blank."""
    return table.assign(**chemistry(table))


def chemistry(table: Any) -> dict[str, Any]:
    """Return the columns of `CHEMISTRY` by name, from a mapping of the measurements by name.

    Molecular sulfur dioxide, the only form that protects wine, is calculated from free sulfur dioxide and pH (the
    Henderson-Hasselbalch equation). The extract, which is what remains when wine is boiled dry, is calculated from
    density and alcohol (Tabarié's relation, in a linear form that holds for wine). The dry extract excludes the sugar.
    """
    free, total = table["free_sulfur_dioxide"], table["total_sulfur_dioxide"]
    acid, sugar = table["fixed_acidity"], table["residual_sugar"]
    extract = EXTRACT_PER_DENSITY * (table["density"] + ALCOHOL_LIGHTENS * table["alcohol"] - 1)
    return {
        "molecular_sulfur_dioxide": free / (1 + 10 ** (table["pH"] - PKA_SULFUROUS_ACID)),
        "bound_sulfur_dioxide": total - free,
        "free_share": free / total.clip(lower=LEAST_SULFUR_DIOXIDE),
        "volatile_share": table["volatile_acidity"] / acid,
        "citric_share": table["citric_acid"] / acid,
        "sugar_to_acid": sugar / acid,
        "sulphates_to_chlorides": table["sulphates"] / table["chlorides"].clip(lower=LEAST_CHLORIDES),
        "extract": extract,
        "dry_extract": extract - sugar,
    }
