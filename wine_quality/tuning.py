"""Search for a model and its parameters on folds of the training side (hyperopt's TPE)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from hyperopt import STATUS_OK, Trials, fmin, hp, space_eval, tpe
from sklearn.metrics import root_mean_squared_error
from tqdm import tqdm

from wine_quality.models import MODELS, build, cross_predict
from wine_quality.schema import TARGET
from wine_quality.splits import folds

SEARCH_TREES = 60


@dataclass(frozen=True)
class Choice:
    """A model's name and the parameters it is built with, over those of `MODELS`."""

    name: str
    params: dict[str, Any]


def search_space() -> dict[str, Any]:
    """Return the space of a search: which family, and within it the parameters that `MODELS` gives it."""
    families = [{"name": name, **model.space} for name, model in MODELS.items() if model.space]
    return hp.choice("family", families)


def search(wines: pd.DataFrame, max_evals: int, seed: int) -> Choice:
    """Search models and parameters for the lowest RMSE over 5 folds, and return the best trial.

    Parameters
    ----------
    wines : DataFrame of shape (n wines, 13)
        The training side.
    max_evals : int
        How many trials.
    seed : int
        Of the folds, the models and the draws.

    Notes
    -----
    The Tree-structured Parzen Estimator of Bergstra et al. (2011), Algorithms for Hyper-Parameter Optimization. Forests
    grow 60 trees in a trial: which parameters are good shows at that size for a fifth of the time.
    """
    parts, space = folds(wines, seed), search_space()
    progress = tqdm(total=max_evals, desc="search", disable=None, leave=False)

    def loss(drawn: dict[str, Any]) -> dict[str, Any]:
        params = {key: plain(value) for key, value in drawn.items() if key != "name"}
        pipeline = build(drawn["name"], seed, **small(drawn["name"]), **params)
        rmse = root_mean_squared_error(wines[TARGET], cross_predict(pipeline, wines, parts))
        progress.update()
        return {"loss": rmse, "status": STATUS_OK}

    with progress:
        best = fmin(
            loss, space, tpe.suggest, max_evals, trials=Trials(), rstate=np.random.default_rng(seed), verbose=False
        )
    drawn = space_eval(space, best)
    params = {key: plain(value) for key, value in drawn.items() if key != "name"}
    return Choice(drawn["name"], params)


def small(name: str) -> dict[str, int]:
    """Return the parameters that make a trial of a forest cheap."""
    return {"n_estimators": SEARCH_TREES} if name == "extra_trees" else {}


def plain(value: Any) -> Any:
    """Return a drawn number as Python's own, rounded to what matters."""
    return round(float(value), 4) if isinstance(value, float) else int(value)
