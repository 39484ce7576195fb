"""The alert rules of monitoring: what is measured, the thresholds, and when to retrain.

Each threshold trades false alarms for late ones; the notebook of chapter 5 shows how it was chosen.
"""

from dataclasses import dataclass, field

import numpy as np

from wine_quality.metrics import rmse_interval

MAX_P_VALUE = 0.01  # at which a measurement has drifted: a calm week moves one by chance in 6 of 100 weeks
MIN_DISTANCE = 0.1  # of Jensen and Shannon: 3 white wines in 100 where there were none, 65 where 50
MIN_ROWS = 10  # on each side of a comparison: with fewer, no test can tell drift from chance
MAX_REJECTED = 0.05  # share of the requests: a few are always wrong, one in twenty says that somebody's data is
MAX_DRIFT = 1 / 3  # share of the 12 columns: one or two drift in any week, and correlated columns drift together
LABEL_WINDOW = 150  # newest labels that the error is measured on: fewer say little, more look far back
MIN_LABELS = 40  # below which the error is not measured
MAX_ERROR_RATIO = 1.05  # to the RMSE on the gate set: a gate set is a sample too, and may have been an easy one
MIN_GROWTH = {"drift": 1 / 2, "quality": 1 / 3}  # of the rows to train on since the last training, as a share


@dataclass(frozen=True)
class ModelQuality:
    """The RMSE of the champion on labelled rows, with its 95 % interval, and on the gate set, in points of quality."""

    rows: int
    rmse: float
    low: float
    high: float
    gate_rmse: float

    def __str__(self) -> str:
        return f"{self.rmse:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def degraded(self) -> bool:
        """Whether the error is above that on the gate set by more than chance explains."""
        return self.low > MAX_ERROR_RATIO * self.gate_rmse


@dataclass(frozen=True)
class MonitoringResult:
    """What a monitoring run measured in a period such as `week 14`, of the champion `version`.

    `requests`, and those `rejected` with a 4xx response, are None if the service didn't answer; `drift_share`, of the
    columns, is None if there were too few predictions, and `quality` if there were too few labels. `missing` has a line
    for each column with too few values to be compared.
    """

    name: str
    version: str
    requests: int | None
    rejected: int | None
    predictions: int
    drift_share: float | None = None
    drifted: list[str] = field(default_factory=list)
    prediction_drift: bool = False
    quality: ModelQuality | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def rejected_share(self) -> float:
        """The share of the requests that were rejected, 0 to 1; 0 if there were none, or it is unknown."""
        return self.rejected / self.requests if self.requests and self.rejected else 0.0


@dataclass(frozen=True)
class Alert:
    """A threshold that was crossed: its kind (`bad data`, `missing data`, `drift` or `quality`) and a message."""

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def model_quality(labels: np.ndarray, scores: np.ndarray, gate_rmse: float, seed: int) -> ModelQuality | None:
    """Return the error on the newest labels, with a bootstrap interval; None if there are fewer than `MIN_LABELS`.

    Both arrays are of shape (n rows,), the oldest row first.
    """
    if len(labels) < MIN_LABELS:
        return None
    newest = labels[-LABEL_WINDOW:]
    return ModelQuality(len(newest), *rmse_interval(newest, scores[-LABEL_WINDOW:], seed), gate_rmse)


def alerts(result: MonitoringResult) -> list[Alert]:
    """Return an alert for each threshold that is crossed."""
    crossed = []
    if result.rejected_share > MAX_REJECTED:
        rejected = f"{result.rejected} of {result.requests} requests were rejected ({result.rejected_share:.0%})"
        crossed.append(Alert("bad data", f"{rejected}, more than {MAX_REJECTED:.0%}"))
    if result.missing:
        crossed.append(Alert("missing data", "; ".join(result.missing)))
    if result.drift_share is not None and result.drift_share >= MAX_DRIFT:
        columns = f"{len(result.drifted)} columns differ from the training data of version {result.version}"
        crossed.append(Alert("drift", f"{columns}: {', '.join(result.drifted)}"))
    if result.quality and result.quality.degraded:
        error = f"the RMSE of version {result.version} on {result.quality.rows} labels is {result.quality}"
        crossed.append(Alert("quality", f"{error}, and {result.quality.gate_rmse:.3f} on its gate set"))
    return crossed


def retraining(crossed: list[Alert], rows: int, rows_before: int) -> tuple[str, str]:
    """Return the trigger of a retraining, `drift` or `quality`, or an empty text, and the reason.

    `rows` is how many labelled rows there are, `rows_before` how many there were when a training was last requested.
    """
    kinds = {alert.kind for alert in crossed}
    if "bad data" in kinds:
        return "", "bad data must be fixed at its source; a model must not learn from it"
    growth = rows / rows_before - 1
    for kind in ("quality", "drift"):
        if kind in kinds and growth >= MIN_GROWTH[kind]:
            return kind, f"{kind}, and {rows - rows_before} more labelled rows than last time ({growth:+.0%})"
    if needed := [share for kind, share in MIN_GROWTH.items() if kind in kinds]:
        more = f"{rows - rows_before} more labelled rows ({growth:+.0%})"
        return "", f"too few new labels: {more}, {min(needed):.0%} needed"
    return "", "missing data is no reason to retrain" if kinds else "no threshold crossed"
