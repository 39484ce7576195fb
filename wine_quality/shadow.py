"""The challenger in the shadow: it scores what the champion answered, and is compared with it once labels are known.

Its scores have a table of their own in the database of predictions. They are never served.
"""

from dataclasses import dataclass
from datetime import datetime

import pandas as pd
from sqlalchemy import Column, Double, MetaData, String, Table, exists, func, select

from wine_quality import labels, predictions
from wine_quality.comparison import compare_scores, rejection_reason
from wine_quality.predictions import BATCH, DTYPES, Database, batched
from wine_quality.schema import FEATURES, TARGET
from wine_quality.thresholds import MIN_LABELS

TABLE = Table(
    "shadow",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("score", Double, nullable=False),
)
SHADOW = "shadow_score"  # the column of the challenger's scores, beside the champion's `score`


@dataclass(frozen=True)
class ShadowComparison:
    """By how much the RMSE of a challenger is below the champion's on labelled `rows`, with an interval.

    `use` is the number of the comparison of these two versions, from 1. `reason` says why the challenger is not
    promoted, and is empty if it is.
    """

    version: str
    champion: str
    rows: int
    use: int
    gain: float
    low: float
    high: float
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the challenger is promoted."""
        return not self.reason

    def __str__(self) -> str:
        measured = f"RMSE lower by {self.gain:.3f} ({self.low:.3f} to {self.high:.3f}) on {self.rows} labelled rows"
        return f"version {self.version} against {self.champion}: {measured}: {self.reason or 'significantly better'}"


def insert(database: Database, version: str, scores: dict[str, float]) -> None:
    """Store a version's scores by the id of the prediction; raise `SQLAlchemyError` if the database is away."""
    statement = database.backend.insert(TABLE).on_conflict_do_nothing()
    rows = [{"id": name, "version": version, "score": score} for name, score in scores.items()]
    with database.transaction(TABLE) as connection:
        for some in batched(rows, BATCH):
            connection.execute(statement, some)


def unscored(url: str, champion: str, challenger: str, since: datetime, limit: int) -> pd.DataFrame:
    """Return rows that the champion scored from a time on and the challenger did not yet, the oldest first."""
    scored = predictions.TABLE
    is_done = exists().where(TABLE.c.id == scored.c.id, TABLE.c.version == challenger)
    of_champion = scored.c.version == champion, scored.c.time >= since, scored.c.type.is_not(None)
    statement = select(scored).where(*of_champion, ~is_done).order_by(scored.c.time, scored.c.id).limit(limit)
    database = Database(url)
    with database.errors("cannot be used"):
        database.create_missing(scored, TABLE)
    return pd.DataFrame(database.fetch(statement, scored, TABLE), columns=list(DTYPES)).astype(DTYPES)


def count(url: str, version: str) -> int:
    """Return how many scores of a version are stored."""
    rows = Database(url).fetch(select(func.count()).select_from(TABLE).where(TABLE.c.version == version), TABLE)
    return rows[0][0] if rows else 0


def labelled_pairs(url: str, champion: str, challenger: str) -> pd.DataFrame:
    """Return the labelled rows that both versions scored, oldest first, with `score`, `shadow_score` and `quality`."""
    scored, known = predictions.TABLE, labels.TABLE
    statement = (
        select(scored, known.c[TARGET], TABLE.c.score.label(SHADOW))
        .join(known, known.c.id == scored.c.id)
        .join(TABLE, TABLE.c.id == scored.c.id)
        .where(scored.c.version == champion, TABLE.c.version == challenger, scored.c.score.is_not(None))
    )
    rows = Database(url).fetch(statement, scored, known, TABLE)
    table = pd.DataFrame(rows, columns=[*DTYPES, TARGET, SHADOW]).astype(DTYPES | {TARGET: "int64", SHADOW: "float64"})
    return table.sort_values(["time", *FEATURES], ignore_index=True)


def compare(
    pairs: pd.DataFrame,
    champion: str,
    challenger: str,
    earlier: list[ShadowComparison],
    minimum: float,
    column: str = "",
) -> ShadowComparison | None:
    """Compare two versions on their `labelled_pairs` by the rule of the gate; None if there are too few new pairs.

    Both are compared as they are, so the interval covers the rows and no training seeds. Each further comparison of
    the same two, of which `earlier` holds some, is stricter, as on a gate set.
    """
    same = [one for one in earlier if (one.champion, one.version) == (champion, challenger)]
    if len(pairs) < MIN_LABELS + (same[-1].rows if same else 0):
        return None
    use, scores = len(same) + 1, (pairs["score"].to_numpy(), pairs[SHADOW].to_numpy())
    overall, by_slice = compare_scores(pairs, *scores, [], use, column)
    reason = rejection_reason(overall, by_slice, use, minimum)
    return ShadowComparison(challenger, champion, len(pairs), use, overall.gain, overall.low, overall.high, reason)
