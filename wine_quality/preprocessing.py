"""From the tidy table to numbers: what every model's pipeline begins with."""

from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from wine_quality.schema import MEASUREMENTS, TYPES


def preprocessor() -> ColumnTransformer:
    """Return the transformer of a table of `FEATURES` into 12 columns: red = 1 or white = 0, then the measurements.

    A blank measurement becomes the mean of its column in the table that the transformer was fitted on, so that
    nothing is learnt from wines that are scored. An unknown type raises.
    """
    return ColumnTransformer(
        [
            ("type", OneHotEncoder(categories=[TYPES], drop=["white"], sparse_output=False), ["type"]),
            ("measurements", SimpleImputer(strategy="mean", keep_empty_features=True), list(MEASUREMENTS)),
        ],
        verbose_feature_names_out=False,
    )
