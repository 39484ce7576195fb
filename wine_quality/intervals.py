"""Prediction intervals, by conformal prediction from the errors of cross-validation.

For rows like those of the training set, 90 in 100 intervals contain the quality, on average over all rows, but not in
each slice of them. An interval is wider for rows on which the model has larger errors: a forest predicts the size of
the error, and the ratio of actual to predicted errors gives the factor by which to widen that (Lei et al., 2018,
Distribution-Free Predictive Inference for Regression, section 5.2; Vovk, 2015, Cross-conformal Predictors).
"""

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from wine_quality.models import build, cross_predict, fit
from wine_quality.schema import BEST, TARGET, WORST
from wine_quality.splits import folds

LEVEL = 0.9  # the share of intervals that contain the quality
FOREST = {"n_estimators": 100, "max_features": 0.5, "min_samples_leaf": 20}  # large leaves: single errors are noisy
LEAST = 1e-9  # points of quality, so that a model without errors has intervals too


def fit_half_width(train: pd.DataFrame, predicted: np.ndarray, seed: int) -> Pipeline:
    """Return a pipeline that predicts the half width of the interval of a row.

    `predicted`, of shape (n rows,), has the cross-validated score of each row of the training set.
    """
    forest = build("extra_trees", seed, "engineered", **FOREST)
    errors = train.assign(**{TARGET: (train[TARGET] - predicted).abs()})
    expected = cross_predict(forest, errors, folds(train, seed))
    factor = conformal_quantile(errors[TARGET].to_numpy() / np.maximum(expected, LEAST))
    return fit(forest, errors.assign(**{TARGET: factor * errors[TARGET]}))


def conformal_quantile(ratios: np.ndarray) -> float:
    """Return the smallest ratio that a further one, drawn like these, exceeds with a probability of at most 10 %."""
    return float(np.quantile(ratios, min(1, np.ceil((len(ratios) + 1) * LEVEL) / len(ratios)), method="inverted_cdf"))


def bounds(scores: np.ndarray, half_widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper end of each interval, on the scale of quality; NaN without a half width."""
    return np.clip(scores - half_widths, WORST, BEST), np.clip(scores + half_widths, WORST, BEST)


def covered(actual: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return for each row whether its quality lies in its interval; all arrays have shape (n rows,)."""
    return (low <= actual) & (actual <= high)
