"""The reference window of monitoring: the champion's training data, or the rows that it scored in its first weeks.

A version that replaced an earlier champion was usually trained on rows from before and after a shift, so its training
data no longer looks like the incoming data. The rows from its first monitoring runs therefore become its reference, as
soon as there are enough runs.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from monitoring.records import Record
from wine_quality import predictions, registry, tracking
from wine_quality.config import Settings
from wine_quality.drift import SCORE
from wine_quality.errors import RegistryError
from wine_quality.files import atomic_write
from wine_quality.schema import TARGET, to_matrix
from wine_quality.scoring import load_scorer
from wine_quality.splits import row_keys
from wine_quality.tables import read_back, read_table
from wine_quality.thresholds import REFERENCE_WEEKS
from wine_quality.tracking import ROWS_FILE, TRAINED_ON


@dataclass(frozen=True)
class Reference:
    """The champion's version, and a table of its training set and gate set.

    The column `score` has its predictions for the gate set, and NaN for the training set. `replaced` is the previous
    champion's version, empty if this is the first champion.
    """

    version: str
    table: pd.DataFrame
    replaced: str = ""

    @property
    def gate_rmse(self) -> float:
        """The RMSE on the gate set, in points of quality."""
        return float(np.sqrt(((self.table[SCORE] - self.table[TARGET]) ** 2).mean()))

    def window(self, url: str, earlier: list[Record]) -> tuple[pd.DataFrame, str]:
        """Return the reference window as a table, and its name.

        `url` is the address of the predictions' database, and `earlier` has the records of earlier runs.
        """
        first = [record for record in earlier if record.result.version == self.version][:REFERENCE_WEEKS]
        if not self.replaced or len(first) < REFERENCE_WEEKS:
            return self.table, f"the training data of version {self.version}"
        scored = predictions.load(url, first[0].since, first[-1].until)
        own = scored.loc[scored["version"] == self.version]
        return own, f"the first {REFERENCE_WEEKS} weeks of version {self.version}"


def load_reference(config: Settings) -> Reference:
    """Return the champion with its data, which is computed once for each version and then cached in a file.

    Raise `RegistryError` if there is no champion, if it can't be loaded, or if MLflow doesn't have its data.
    """
    with tracking.store(config) as store:
        version = registry.champion(store)
    if version is None:
        raise RegistryError(f"{config.registered_model} has no champion to monitor. Train one first: make run.")
    path = config.local / "reference" / f"{version.run_id}.csv"
    if not path.is_file():
        with atomic_write(path) as part:
            reference_table(config, version, part.parent).to_csv(part, index=False)
    return Reference(str(version.version), read_back(path), version.tags.get(registry.REPLACED, ""))


def reference_table(config: Settings, version: ModelVersion, folder: Path) -> pd.DataFrame:
    """Return the rows of a version's training set and gate set, with its scores for the gate set."""
    run_id = str(version.run_id)
    with tracking.store(config) as store:
        trained_on = store.read_text(run_id, TRAINED_ON).split()
        if ROWS_FILE not in {file.path for file in store.client.list_artifacts(run_id)}:
            about = f"{version.name} version {version.version}"
            raise RegistryError(f"{about} has no {ROWS_FILE} in MLflow. Train again: make run.")
        path = store.download(f"runs:/{run_id}/{ROWS_FILE}", folder)
    table = read_table(path, both_types=False).reset_index(drop=True)
    gate_set = ~row_keys(table).isin(trained_on)
    scores = load_scorer(config, version).score(to_matrix(table.loc[gate_set]))
    return table.assign(**{SCORE: pd.Series(scores, index=table.index[gate_set])})
