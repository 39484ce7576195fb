"""True qualities: what tasters say of wines that were scored, often weeks later, kept beside the predictions.

They lie in the database of the predictions, in a table of their own. A quality that is told again takes the place of
the one before: tasters correct themselves.
"""

from datetime import UTC, datetime

import pandas as pd
from sqlalchemy import Column, Integer, MetaData, String, Table, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from wine_quality import predictions
from wine_quality.errors import DataError, PredictionsError
from wine_quality.predictions import Store, UtcTime, told
from wine_quality.schema import BEST, FEATURES, TARGET, WORST

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
        The quality, 0 to 10, by the id of the prediction. The prediction itself may still be on its way.

    Raises
    ------
    DataError
        A quality is not a whole number from 0 to 10. Nothing is kept then.
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
        store.write(TABLE, upsert, iter(rows))
    except SQLAlchemyError as error:
        raise unusable(store, error) from None


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
