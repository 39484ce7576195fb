"""Preprocessing, from the tidy table to numbers: the first steps of every pipeline."""

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, QuantileTransformer, StandardScaler

from wine_quality.chemistry import CHEMISTRY, with_chemistry
from wine_quality.schema import MEASUREMENTS, TYPE, TYPES


def preprocessor(columns: tuple[str, ...] = tuple(MEASUREMENTS)) -> ColumnTransformer:
    """Return a transformer from a table of `FEATURES` to numbers: red = 1 or white = 0, then the columns.

    A blank measurement becomes the mean of its column in the training set. An unknown type raises `ValueError`.
    """
    colour = OneHotEncoder(categories=[TYPES], drop=TYPES[1:], sparse_output=False)  # pyright: ignore[reportArgumentType]
    return ColumnTransformer(
        [
            (TYPE, colour, [TYPE]),
            ("measurements", SimpleImputer(strategy="mean", keep_empty_features=True), list(columns)),
        ],
        verbose_feature_names_out=False,
    )


def engineered_steps() -> list[tuple[str, FunctionTransformer | ColumnTransformer]]:
    """Return the steps from a table of `FEATURES` to 21 columns: type, measurements and `CHEMISTRY`."""
    derive, columns = FunctionTransformer(with_chemistry), (*MEASUREMENTS, *CHEMISTRY)
    return [("chemistry", derive), ("preprocess", preprocessor(columns))]


def normal_scores() -> QuantileTransformer:
    """Return a transformer of each column to the normal scores of its ranks, which puts red and white far apart."""
    return QuantileTransformer(
        n_quantiles=100,
        output_distribution="normal",
        subsample=None,  # pyright: ignore[reportArgumentType]
    )


def logarithms() -> Pipeline:
    """Return a transformer of each column to its inverse hyperbolic sine, standardised.

    That is nearly a logarithm far from 0 and linear near 0, so unlike a logarithm it is also defined at 0.
    """
    return Pipeline([("arcsinh", FunctionTransformer(np.arcsinh)), ("standardise", StandardScaler())])
