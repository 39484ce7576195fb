"""Whether all is well with the model in use: what is looked at, the limits, and what follows.

All limits stand here. Each is a bargain between an alarm for nothing and one that comes too late; the notebook of
chapter 5 shows how each was found.
"""

from dataclasses import dataclass, field

import numpy as np

from wine_quality.metrics import redrawn_means

LEAST_CHANCE = 0.01  # p-value at which a measurement has drifted: a calm week moves one by luck in 6 of 100 weeks
MOST_DISTANCE = 0.1  # of Jensen and Shannon: 3 white wines in 100 where there were none, 65 where 50
FEWEST_COMPARED = 10  # wines on each side: with fewer, no test can tell drift from luck
MOST_REFUSED = 0.05  # share of the requests: a few are always wrong, one in twenty says that somebody's data is
MOST_DRIFTED = 1 / 3  # share of the 12 columns: one or two drift in any week, and those that hang together, together
NEWEST = 150  # labelled wines on which the error is measured: fewer say little, more look far back
FEWEST = 40  # labelled wines below which nothing is said of the error
WORSE = 1.05  # times the error on the gate set: a gate set is a draw too, and may have been an easy one
MORE_WINES = {"drift": 1 / 2, "quality": 1 / 3}  # growth of what there is to learn from, as a share of it
DRAWS = 2000


@dataclass(frozen=True)
class Quality:
    """The error on wines whose true quality has come in, all scored by the version in use.

    `rmse`, its 95 % interval `low` to `high`, and the RMSE `expected` from the gate set are in points of quality.
    """

    wines: int
    rmse: float
    low: float
    high: float
    expected: float

    def __str__(self) -> str:
        """Return the error with its interval."""
        return f"{self.rmse:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def lost(self) -> bool:
        """Whether the model is worse than its gate set promised, by more than the luck of the draw."""
        return self.low > WORSE * self.expected


@dataclass(frozen=True)
class Reading:
    """One look at the model in use, over some time.

    Attributes
    ----------
    name : str
        Of the time looked at, such as `week 14`.
    version : str
        Of the model.
    asked, refused : int or None
        Requests with wines, and how many of them were refused; None where the service was not there to say.
    wines : int
        How many were scored.
    drift : float or None
        The share of the columns that drifted; None where there were too few wines.
    drifted : list of str
        Which ones.
    score_drifted : bool
        Whether the scores did.
    quality : Quality or None
        None where too few true qualities have come in.
    missing : list of str
        A line for each column that has too few values to be compared.
    """

    name: str
    version: str
    asked: int | None
    refused: int | None
    wines: int
    drift: float | None = None
    drifted: list[str] = field(default_factory=list)
    score_drifted: bool = False
    quality: Quality | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def refused_share(self) -> float:
        """The share of the requests that were refused, 0 to 1; 0 where there were none, or nobody knows."""
        return self.refused / self.asked if self.asked and self.refused else 0.0


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: its kind (`bad data`, `missing data`, `drift` or `quality`) and a line."""

    kind: str
    line: str

    def __str__(self) -> str:
        """Return both."""
        return f"{self.kind}: {self.line}"


def quality(actual: np.ndarray, scores: np.ndarray, expected: float, seed: int) -> Quality | None:
    """Return the error on the newest labelled wines, oldest first, or None where there are fewer than 40.

    The interval is by bootstrap, as that of `metrics.rmse_gain`.
    """
    if len(actual) < FEWEST:
        return None
    squares = (actual[-NEWEST:] - scores[-NEWEST:])[:, np.newaxis] ** 2
    low, high = np.sqrt(np.quantile(redrawn_means(squares, seed, DRAWS), [0.025, 0.975]))
    return Quality(len(squares), float(np.sqrt(squares.mean())), float(low), float(high), expected)


def findings(reading: Reading) -> list[Finding]:
    """Return all that is beyond a limit."""
    found = []
    if reading.refused_share > MOST_REFUSED:
        line = f"{reading.refused} of {reading.asked} requests were refused ({reading.refused_share:.0%})"
        found.append(Finding("bad data", f"{line}, more than {MOST_REFUSED:.0%}"))
    if reading.missing:
        found.append(Finding("missing data", "; ".join(reading.missing)))
    if reading.drift is not None and reading.drift >= MOST_DRIFTED:
        line = f"{len(reading.drifted)} columns are unlike the wines that version {reading.version} knows"
        found.append(Finding("drift", f"{line}: {', '.join(reading.drifted)}"))
    if reading.quality and reading.quality.lost:
        q = reading.quality
        line = f"the RMSE of version {reading.version} on {q.wines} labelled wines is {q}"
        found.append(Finding("quality", f"{line}, and {q.expected:.3f} on its gate set"))
    return found


def event(found: list[Finding], wines: int, before: int) -> tuple[str, str]:
    """Return whether to train anew, and why or why not.

    Parameters
    ----------
    found : list of Finding
    wines : int
        How many labelled wines there are to learn from.
    before : int
        How many there were when a model was last trained or asked for.

    Returns
    -------
    kind : str
        `drift`, `quality`, or an empty text where nothing is to be done.
    why : str
        In words.
    """
    kinds = {one.kind for one in found}
    if "bad data" in kinds:
        return "", "bad data is mended where it comes from; nothing is learnt from it"
    grown = wines / before - 1
    for kind in ("quality", "drift"):
        if kind in kinds and grown >= MORE_WINES[kind]:
            return kind, f"{kind}, and {wines - before} more labelled wines than last time ({grown:+.0%})"
    wanted = [share for kind, share in MORE_WINES.items() if kind in kinds]
    if wanted:
        more = f"{wines - before} more labelled wines ({grown:+.0%})"
        return "", f"too little to learn from: {more}, {min(wanted):.0%} wanted"
    return "", "data that is missing calls for no training" if kinds else "all is well"
