"""Labels, the ground truth of monitoring: the quality that tasters give a scored wine, often weeks later.

They have a table of their own in the database of predictions. A later label replaces an earlier one.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from numbers import Integral

import pandas as pd
from sqlalchemy import Column, Integer, MetaData, String, Table, select
from sqlalchemy.engine import Connection

from wine_quality import predictions
from wine_quality.errors import DataError
from wine_quality.predictions import BATCH, DTYPES, Database, UtcTime, batched
from wine_quality.schema import BEST, FEATURES, SHOWN_PROBLEMS, TARGET, WORST

TABLE = Table(
    "labels",
    MetaData(),
    Column("id", String, primary_key=True),
    Column(TARGET, Integer, nullable=False),
    Column("time", UtcTime, nullable=False),
)


def add(url: str, labels: dict[str, int]) -> None:
    """Store labels, all or none: the quality, 0 to 10, by the id of the prediction.

    Raise `DataError` if one is not an integer from 0 to 10 or has no stored prediction, `PredictionsError` if the
    database at `url` (see `predictions.Database`) is away or refuses.
    """
    for name, quality in labels.items():
        if isinstance(quality, bool) or not isinstance(quality, Integral) or not WORST <= quality <= BEST:
            raise DataError(
                f"quality of {name}: {quality!r} is not a whole number from {WORST} to {BEST}. Fix it; none is stored."
            )
    labels, database, now = {name: int(quality) for name, quality in labels.items()}, Database(url), datetime.now(UTC)
    insert = database.backend.insert(TABLE)
    upsert = insert.on_conflict_do_update(
        index_elements=["id"], set_={TARGET: insert.excluded[TARGET], "time": insert.excluded.time}
    )
    tables = TABLE, predictions.TABLE
    with database.errors("labels cannot be stored"), database.transaction(*tables) as connection:
        assert_predicted(connection, labels)
        for some in batched(labels.items(), BATCH):
            connection.execute(upsert, [{"id": name, TARGET: quality, "time": now} for name, quality in some])


def assert_predicted(connection: Connection, ids: Collection[str]) -> None:
    """Raise a `DataError` that names the ids without a stored prediction, the first ten of them in full."""
    column, stored = predictions.TABLE.c.id, set()
    for some in batched(ids, BATCH):
        stored.update(connection.scalars(select(column).where(column.in_(some))))
    unknown = [name for name in ids if name not in stored]
    if unknown:
        more = f" and {len(unknown) - SHOWN_PROBLEMS} more" if len(unknown) > SHOWN_PROBLEMS else ""
        raise DataError(
            f"{len(unknown)} of {len(ids)} ids have no stored prediction: {', '.join(unknown[:SHOWN_PROBLEMS])}{more}. "
            "No label is stored. Fix the ids; a prediction of the last seconds, or one made while its database was "
            "away, may still be in the queue: then add the labels later."
        )


def labelled_predictions(url: str) -> pd.DataFrame:
    """Return the predictions that have a label, oldest first, as a table of shape (n predictions, 19).

    It has the columns of `predictions.load`, and `quality`, int64. Raise `PredictionsError` if the database is away.
    """
    joined = select(predictions.TABLE, TABLE.c[TARGET]).join(TABLE, TABLE.c.id == predictions.TABLE.c.id)
    rows = Database(url).fetch(joined, predictions.TABLE, TABLE)
    table = pd.DataFrame(rows, columns=[*DTYPES, TARGET]).astype(DTYPES | {TARGET: "int64"})
    return table.sort_values(["time", *FEATURES], ignore_index=True)  # ids are random, and training needs one order
