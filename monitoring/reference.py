"""What the champion was trained on, from MLflow, and how well it scored the rows of its gate set."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from orchestration.bucket import wine_bucket
from wine_quality import registry, storage, tracking
from wine_quality.config import Settings
from wine_quality.drift import SCORE
from wine_quality.errors import RegistryError
from wine_quality.files import whole_file
from wine_quality.reading import read_wines
from wine_quality.schema import TARGET
from wine_quality.scoring import columns_of, load_scorer
from wine_quality.splits import wine_keys
from wine_quality.tracking import TRAINED_ON, WINES


@dataclass(frozen=True)
class Reference:
    """A version of the model and its wines.

    Attributes
    ----------
    version : str
        Its number.
    wines : DataFrame of shape (n wines, 14)
        The training set and the gate set, with their quality; and its `score` of the rows of the gate set,
        NaN for the others.
    """

    version: str
    wines: pd.DataFrame

    @property
    def expected(self) -> float:
        """The RMSE on the gate set, in points of quality."""
        return float(np.sqrt(((self.wines[SCORE] - self.wines[TARGET]) ** 2).mean()))


def load_reference(config: Settings) -> Reference:
    """Return the champion and its wines. They are put together once for each version and kept as a file.

    Raises
    ------
    RegistryError
        There is no champion, or it does not load.
    StorageError
        An earlier release registered it, so that its rows are in the bucket alone, and they are not there.
    """
    with tracking.store(config):
        version = registry.champion(config)
    if version is None:
        raise RegistryError(f"{config.registered_model} has no champion to watch. Train one first: make run.")
    path = config.local / "reference" / f"{version.run_id}.csv"
    if not path.is_file():
        with whole_file(path) as part:
            scored_wines(config, version, part.parent).to_csv(part, index=False)
    return Reference(str(version.version), pd.read_csv(path, float_precision="round_trip"))


def scored_wines(config: Settings, version: ModelVersion, aside: Path) -> pd.DataFrame:
    """Return a version's rows, with its scores of those in the gate set."""
    with tracking.store(config):
        known = mlflow.artifacts.load_text(f"runs:/{version.run_id}/{TRAINED_ON}").split()
    wines = read_wines(wines_file(config, version, aside), both_types=False).reset_index(drop=True)
    held = ~wine_keys(wines).isin(known)
    scores = load_scorer(config, version).score(columns_of(wines.loc[held]))
    return wines.assign(**{SCORE: pd.Series(scores, index=wines.index[held])})


def wines_file(config: Settings, version: ModelVersion, aside: Path) -> Path:
    """Return the file of a version's rows, fetched from MLflow into a folder.

    MLflow has had it since the bucket may change; that of an earlier version waits for the bucket or is in it.
    """
    with tracking.store(config):
        if WINES in {file.path for file in MlflowClient().list_artifacts(version.run_id)}:
            return Path(mlflow.artifacts.download_artifacts(f"runs:/{version.run_id}/{WINES}", dst_path=str(aside)))
    waiting = config.outbox / version.run_id / WINES
    if waiting.is_file():
        return waiting
    with wine_bucket(config) as (bucket, _):
        storage.pull(bucket, version.run_id, aside)
    return aside / WINES
