"""From the tidy table to numbers: what every model's pipeline begins with."""

from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, QuantileTransformer

from wine_quality.chemistry import CHEMISTRY, with_chemistry
from wine_quality.schema import MEASUREMENTS, TYPES

QUANTILES = 100


def preprocessor(columns: tuple[str, ...] = tuple(MEASUREMENTS)) -> ColumnTransformer:
    """Return the transformer of a table of `FEATURES` into numbers: red = 1 or white = 0, then the columns given.

    A blank measurement becomes the mean of its column in the table that the transformer was fitted on, so that
    nothing is learnt from wines that are scored. An unknown type raises.
    """
    return ColumnTransformer(
        [
            ("type", OneHotEncoder(categories=[TYPES], drop=["white"], sparse_output=False), ["type"]),
            ("measurements", SimpleImputer(strategy="mean", keep_empty_features=True), list(columns)),
        ],
        verbose_feature_names_out=False,
    )


def chemist_steps() -> list[tuple[str, FunctionTransformer | ColumnTransformer]]:
    """Return the steps of a pipeline from a table of `FEATURES` to 21 columns: `CHEMISTRY` after the measurements."""
    return [
        ("chemistry", FunctionTransformer(with_chemistry)),
        ("preprocess", preprocessor((*MEASUREMENTS, *CHEMISTRY))),
    ]


def normal_scores() -> QuantileTransformer:
    """Return the transformer of each column to the normal scores of its ranks: no tail is long then.

    A column of only 0 and 1, as the colour is, comes out at the two far ends: red and white are far apart.
    """
    return QuantileTransformer(n_quantiles=QUANTILES, output_distribution="normal", subsample=None)
