"""The alert rules of monitoring: what is measured, the thresholds, and when to retrain.

Each threshold is a trade-off between false alarms and late ones: the README of chapter 5 gives the reasons, and its
notebook shows how the thresholds for drift were chosen.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import binomtest

from wine_quality.intervals import LEVEL, covered
from wine_quality.metrics import rmse_interval

MAX_P_VALUE = 0.01  # of a drifted column, which must also differ by the minimum effect below
MIN_GAP = 0.1  # Kolmogorov-Smirnov statistic: in a large sample even a trivial shift has a small p-value
MIN_DISTANCE = 0.1  # Jensen-Shannon distance: 3 % white rows instead of none, or 65 % instead of 50 %
MIN_ROWS = 10  # in each of the two samples: with fewer, no test can distinguish drift from chance
MAX_REJECTED = 0.05  # share of the requests: a few are always wrong; one in twenty means that a client sends bad data
MAX_DRIFT = 1 / 3  # share of a colour's measurements: one may drift in any week, and correlated ones drift together
REFERENCE_WEEKS = 3  # monitoring runs after a promotion: their predictions become the reference
LABEL_WINDOW = 150  # number of newest labels for the error: fewer are too noisy, more reach too far back
MIN_LABELS = 40  # below which the error is not measured
MAX_ERROR_RATIO = 1.05  # to the RMSE on the gate set, which is a sample too, and may have been an easy one
COVERAGE_BAND = 0.05  # above and below the nominal coverage: on a gate set of 1,100 rows it varies by 0.02
MIN_GROWTH = {"drift": 1 / 2, "quality": 1 / 3}  # of the number of labelled rows since the last training, as a share


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
        """Whether the error is significantly above that on the gate set."""
        return self.low > MAX_ERROR_RATIO * self.gate_rmse


@dataclass(frozen=True)
class Coverage:
    """The share of labelled rows whose quality lies in their prediction interval, with its 95 % interval."""

    rows: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.0%} ({self.low:.0%} to {self.high:.0%})"

    @property
    def off(self) -> bool:
        """Whether the coverage is significantly lower or higher than it should be."""
        return self.high < LEVEL - COVERAGE_BAND or self.low > LEVEL + COVERAGE_BAND


@dataclass(frozen=True)
class MonitoringResult:
    """The result of a monitoring run for a period such as `week 14`, with the champion `version`.

    `requests`, and those `rejected` with a 4xx response, are None if the service didn't answer. `drift_share` is the
    share of measurements that drifted, for the colour with the most drift; it is None if there were too few
    predictions. `type_drift` means that the mix of colours drifted, and `reference` names what the rows were compared
    with. `quality` and `coverage` are None if there were too few labels, and `slices` has the error by slice, from
    `slices.error_table`. `missing` has a line for each column with too few values for a comparison.
    """

    name: str
    version: str
    requests: int | None
    rejected: int | None
    predictions: int
    drift_share: float | None = None
    drifted: list[str] = field(default_factory=list)
    type_drift: bool = False
    prediction_drift: bool = False
    reference: str = ""
    quality: ModelQuality | None = None
    coverage: Coverage | None = None
    slices: dict[str, dict[str, float | None]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def rejected_share(self) -> float:
        """The share of the requests that were rejected, 0 to 1; 0 if there were none, or if it is unknown."""
        return self.rejected / self.requests if self.requests and self.rejected else 0.0


@dataclass(frozen=True)
class Alert:
    """An alert for a crossed threshold, with its kind and a message.

    Kinds are `bad data`, `missing data`, `drift`, `quality` and `coverage`.
    """

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


def interval_coverage(labels: np.ndarray, low: np.ndarray, high: np.ndarray) -> Coverage | None:
    """Return the coverage on the newest labels that have an interval; None if there are fewer than `MIN_LABELS`.

    The arrays are of shape (n rows,), the oldest row first. The interval of the coverage is that of Clopper and Pearson
    (1934).
    """
    inside = covered(labels, low, high)[np.isfinite(low)][-LABEL_WINDOW:]
    if len(inside) < MIN_LABELS:
        return None
    ends = binomtest(int(inside.sum()), len(inside)).proportion_ci()
    return Coverage(len(inside), float(inside.mean()), float(ends.low), float(ends.high))


def alerts(result: MonitoringResult) -> list[Alert]:
    """Return an alert for each threshold that was crossed."""
    crossed = []
    if result.rejected_share > MAX_REJECTED:
        rejected = f"{result.rejected} of {result.requests} requests were rejected ({result.rejected_share:.0%})"
        crossed.append(Alert("bad data", f"{rejected}, more than {MAX_REJECTED:.0%}"))
    if result.missing:
        crossed.append(Alert("missing data", "; ".join(result.missing)))
    if result.type_drift or (result.drift_share or 0) >= MAX_DRIFT:
        count = len(result.drifted)
        columns = f"{count} column{' differs' if count == 1 else 's differ'} from {result.reference}"
        crossed.append(Alert("drift", f"{columns}: {', '.join(result.drifted)}"))
    if result.quality and result.quality.degraded:
        error = f"the RMSE of version {result.version} on {result.quality.rows} labels is {result.quality}"
        crossed.append(Alert("quality", f"{error}, and {result.quality.gate_rmse:.3f} on its gate set"))
    if result.coverage and result.coverage.off:
        share = f"the {LEVEL:.0%} intervals of version {result.version} hold for {result.coverage}"
        crossed.append(Alert("coverage", f"{share} of {result.coverage.rows} labelled rows"))
    return crossed


def retraining(crossed: list[Alert], rows: int, rows_before: int) -> tuple[str, str]:
    """Return the trigger of a retraining, `drift` or `quality`, or an empty string, and the reason.

    `rows` is the number of labelled rows, `rows_before` that number when a training was last requested.
    """
    kinds = {alert.kind for alert in crossed}
    if "bad data" in kinds:
        return "", "bad data must be fixed at its source; a model must not be trained on it"
    growth, more = rows / rows_before - 1, f"{rows - rows_before} more labelled rows"
    for kind in ("quality", "drift"):
        if kind in kinds and growth >= MIN_GROWTH[kind]:
            return kind, f"{kind}, and {more} than at the last training ({growth:+.0%})"
    if needed := [share for kind, share in MIN_GROWTH.items() if kind in kinds]:
        return "", f"too few new labels: {more} ({growth:+.0%}), {min(needed):.0%} needed"
    return "", f"{' and '.join(sorted(kinds))} is no reason to retrain" if kinds else "no threshold crossed"
