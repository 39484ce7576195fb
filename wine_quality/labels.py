"""True qualities: what tasters say of wines that were scored, often weeks later, kept beside the predictions.

They lie in the database of the predictions, in a table of their own. A quality that is told again takes the place of
the one before: tasters correct themselves.
"""

from collections.abc import Collection
from datetime import UTC, datetime

import pandas as pd
from sqlalchemy import Column, Integer, MetaData, String, Table, inspect, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from wine_quality import predictions
from wine_quality.errors import DataError, PredictionsError
from wine_quality.predictions import Store, UtcTime, batched, told
from wine_quality.schema import BEST, FEATURES, SHOWN_PROBLEMS, TARGET, WORST

TABLE = Table(
    "qualities",
    MetaData(),
    Column("id", String, primary_key=True),
    Column(TARGET, Integer, nullable=False),
    Column("time", UtcTime, nullable=False),
)


def add(url: str, qualities: dict[str, int]) -> None:
    """Keep true qualities, all or none.

    Parameters
    ----------
    url : str
        As that of `predictions.Store`.
    qualities : dict
        The quality, 0 to 10, by the id of the prediction.

    Raises
    ------
    DataError
        A quality is not a whole number from 0 to 10, or no stored prediction has an id. Nothing is kept then.
    PredictionsError
        The database is away, or refuses.
    """
    for name, quality in qualities.items():
        if not isinstance(quality, int) or not WORST <= quality <= BEST:
            raise DataError(
                f"quality of {name}: {quality!r} is not a whole number from {WORST} to {BEST}. Mend it; none is kept."
            )
    store, now = Store(url), datetime.now(UTC)
    rows = [{"id": name, TARGET: quality, "time": now} for name, quality in qualities.items()]
    insert = store.kind.insert(TABLE)
    upsert = insert.on_conflict_do_update(
        index_elements=["id"], set_={TARGET: insert.excluded[TARGET], "time": insert.excluded.time}
    )
    try:
        with store.writing(TABLE, predictions.TABLE) as connection:
            assert_predicted(connection, qualities)
            for some in batched(rows, predictions.BATCH):
                connection.execute(upsert, some)
    except SQLAlchemyError as error:
        raise unusable(store, error) from None


def assert_predicted(connection: Connection, ids: Collection[str]) -> None:
    """Raise a `DataError` that names the ids of no stored prediction, the first ten of them in full."""
    column, known = predictions.TABLE.c.id, set()
    for some in batched(ids, predictions.BATCH):
        known.update(connection.scalars(select(column).where(column.in_(some))))
    unknown = [name for name in ids if name not in known]
    if unknown:
        more = f" and {len(unknown) - SHOWN_PROBLEMS} more" if len(unknown) > SHOWN_PROBLEMS else ""
        raise DataError(
            f"{len(unknown)} of {len(ids)} ids have no stored prediction: {', '.join(unknown[:SHOWN_PROBLEMS])}{more}. "
            "No label is stored. Mend the ids; a prediction that was made just now, or while its database was away, "
            "may still be on its way there: then add the labels later."
        )


def labelled(url: str) -> pd.DataFrame:
    """Read the predictions whose true quality is known, oldest first; those of one moment in the order of their wines.

    Parameters
    ----------
    url : str
        As that of `predictions.Store`.

    Returns
    -------
    DataFrame of shape (n predictions, 17)
        Those of `predictions.read`, and `quality`, int64.

    Raises
    ------
    PredictionsError
        The database is away, or refuses.
    """
    store = Store(url)
    try:
        with store.engine.connect() as connection:
            there = inspect(connection).has_table(TABLE.name)
            rows = connection.execute(select(TABLE.c.id, TABLE.c[TARGET])).all() if there else []
    except SQLAlchemyError as error:
        raise unusable(store, error) from None
    known = pd.DataFrame(rows, columns=["id", TARGET]).astype({"id": "str", TARGET: "int64"})
    both = predictions.read(url).merge(known, on="id", validate="one_to_one")
    return both.sort_values(["time", *FEATURES], ignore_index=True)  # ids are drawn at random: no order for a training


def unusable(store: Store, error: SQLAlchemyError) -> PredictionsError:
    """Return the error of a database that is away or refuses."""
    return PredictionsError(f"{store.name}: cannot be used ({told(error)}). Start it, or mend WINE_PREDICTIONS.")
