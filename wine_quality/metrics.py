"""Six metrics, and confidence intervals for two of them and for the gain of one model over another."""

import numpy as np
from scipy.stats import norm
from sklearn.metrics import accuracy_score, cohen_kappa_score, mean_absolute_error, r2_score, root_mean_squared_error


def scores(actual: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return six measures of predicted against actual quality, both of shape (n rows,).

    `rmse` and `mae` are in points of quality; `r2` is the share of the variance explained (0 is no better than the
    mean); `accuracy` is the share of rows whose rounded score is right, `within_1` the share at most one point off;
    `qwk` is Cohen's kappa with quadratic weights (Cohen, 1968, Psychological Bulletin 70(4)): agreement of the rounded
    scores beyond chance, where a miss by two counts four times a miss by one.
    """
    rounded = np.rint(predicted).astype(int)
    return {
        "rmse": float(root_mean_squared_error(actual, predicted)),
        "mae": float(mean_absolute_error(actual, predicted)),
        "r2": float(r2_score(actual, predicted)),
        "accuracy": float(accuracy_score(actual, rounded)),
        "within_1": float(np.mean(np.abs(actual - rounded) <= 1)),
        "qwk": float(cohen_kappa_score(actual, rounded, weights="quadratic")),
    }


def redrawn_means(values: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """Return the column means of `values`, of shape (n rows, k), for rows redrawn with replacement: (draws, k)."""
    count = len(values)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws) / count
    return weights @ values


def r2_interval(actual: np.ndarray, predicted: np.ndarray, seed: int, draws: int = 1000) -> tuple[float, float, float]:
    """Return R² with its 95 % interval (low, high), by the bootstrap of `rmse_gain`."""
    error, mean, square = redrawn_means(np.column_stack([(actual - predicted) ** 2, actual, actual**2]), seed, draws).T
    low, high = np.quantile(1 - error / (square - mean**2), [0.025, 0.975])
    return float(r2_score(actual, predicted)), float(low), float(high)


def rmse_interval(
    actual: np.ndarray, predicted: np.ndarray, seed: int, draws: int = 2000
) -> tuple[float, float, float]:
    """Return the RMSE with its 95 % interval (low, high), by the bootstrap of `rmse_gain`."""
    squares = (actual - predicted)[:, np.newaxis] ** 2
    low, high = np.sqrt(np.quantile(redrawn_means(squares, seed, draws), [0.025, 0.975]))
    return float(np.sqrt(squares.mean())), float(low), float(high)


def rmse_gain(
    actual: np.ndarray, champion: np.ndarray, challenger: np.ndarray, seed: int, draws: int = 2000
) -> tuple[float, float, float]:
    """Return by how much the challenger's RMSE is lower than the champion's, with its 95 % interval (low, high).

    A paired bootstrap: the same rows are redrawn for both, so that errors shared by both models cancel out (Efron and
    Tibshirani, 1993, An Introduction to the Bootstrap, chapter 13, percentile interval).
    """
    squares = np.column_stack([(actual - champion) ** 2, (actual - challenger) ** 2])
    redrawn = np.sqrt(redrawn_means(squares, seed, draws))
    low, high = np.quantile(redrawn[:, 0] - redrawn[:, 1], [0.025, 0.975])
    champion_rmse, challenger_rmse = np.sqrt(squares.mean(axis=0))
    return float(champion_rmse - challenger_rmse), float(low), float(high)


def gain_interval(
    actual: np.ndarray, champion: np.ndarray, challenger: np.ndarray, seed_variance: float, tail: float
) -> tuple[float, float, float]:
    """Return by how much the challenger's RMSE is lower than the champion's, with an interval (low, high).

    `seed_variance` is the variance of the gain between training seeds, in squared points of quality; `tail` is the
    probability of a true gain below `low`, and of one above `high`: 0.025 gives a 95 % interval. The interval uses the
    normal approximation, with the variance between rows plus that between seeds. For the rows, the gain is the
    difference of the mean squared errors divided by the sum of the RMSEs, so that errors shared by both models cancel
    out, as in `rmse_gain`. A bootstrap would need far more draws, because only a few fall into the tails of the gate.
    """
    squares = np.column_stack([(actual - champion) ** 2, (actual - challenger) ** 2])
    before, after = np.sqrt(squares.mean(axis=0))
    rows_variance = np.var(squares[:, 0] - squares[:, 1]) / len(actual) / ((before + after) or 1) ** 2
    gain, width = before - after, norm.isf(tail) * np.sqrt(rows_variance + seed_variance)
    return float(gain), float(gain - width), float(gain + width)
