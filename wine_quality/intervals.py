"""Prediction intervals, by conformal prediction from the errors of cross-validation.

Of rows like those of the training set, 90 in 100 have a quality within the interval: that holds on average over all
rows, not for each kind of them. An interval is wider where the model errs more: a forest learns the size of the errors,
and their ratio to what it expects says by how much that must be widened (Lei et al., 2018, Distribution-Free Predictive
Inference for Regression, section 5.2; Vovk, 2015, Cross-conformal Predictors).
"""

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from wine_quality.models import build, cross_predict, fit
from wine_quality.schema import BEST, TARGET, WORST
from wine_quality.splits import folds

LEVEL = 0.9  # the share of rows that an interval holds for
FOREST = {"n_estimators": 100, "max_features": 0.5, "min_samples_leaf": 20}  # large leaves: an error says little alone
LEAST = 1e-9  # points of quality, so that a model without errors has intervals too


def fit_half_width(train: pd.DataFrame, predicted: np.ndarray, seed: int) -> Pipeline:
    """Return a pipeline that predicts by how much an interval reaches below and above the score of a row.

    `predicted`, of shape (n rows,), holds the cross-validated score of each row of the training set.
    """
    forest = build("extra_trees", seed, "engineered", **FOREST)
    errors = train.assign(**{TARGET: (train[TARGET] - predicted).abs()})
    expected = cross_predict(forest, errors, folds(train, seed))
    factor = conformal_quantile(errors[TARGET].to_numpy() / np.maximum(expected, LEAST))
    return fit(forest, errors.assign(**{TARGET: factor * errors[TARGET]}))


def conformal_quantile(ratios: np.ndarray) -> float:
    """Return the smallest ratio that at least 90 % of all, and of one more drawn like them, do not exceed."""
    return float(np.quantile(ratios, min(1, np.ceil((len(ratios) + 1) * LEVEL) / len(ratios)), method="inverted_cdf"))


def bounds(scores: np.ndarray, half_widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper end of each interval, on the scale of quality; NaN without a half width."""
    return np.clip(scores - half_widths, WORST, BEST), np.clip(scores + half_widths, WORST, BEST)


def covered(actual: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Say of each row whether its quality lies in its interval; all arrays are of shape (n rows,)."""
    return (low <= actual) & (actual <= high)
