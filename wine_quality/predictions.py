"""Every prediction is kept: at once in a spool on the local disk, soon after in a database.

The spool is a folder of files of JSON lines, its segments. A process appends to one that it alone holds, and a thread
inserts the lines of those that nobody holds any more into the database, then deletes them. So an answer never waits
for the database, and one that is away, locked or slow loses nothing: the lines stay on the disk, also when the process
is killed, and the next process on the same spool inserts them. A line inserted twice is one prediction, by its id.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import orjson
import pandas as pd
from pydantic import TypeAdapter
from sqlalchemy import Column, DateTime, Double, MetaData, String, Table, create_engine, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Dialect, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeDecorator

from wine_quality.disk_queue import Spool, Trouble, opened
from wine_quality.errors import PredictionsError, SettingsError
from wine_quality.schema import FEATURES, MEASUREMENTS

SHIP_SECONDS, LONGEST_WAIT = 1.0, 30.0  # from one shipment to the next, and at most where the database is away
CLOSE_SECONDS = 5.0
BATCH = 100  # rows a statement: the thread gives way to answers in between
INSERTED = 10_000  # lines of a file in one transaction
LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC
SHOWN = 300  # letters of an error of the database

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """One answer of a model.

    `time` is in UTC, `version` that of the registered model, `wine` its 12 features by name, None or NaN where blank.
    """

    id: str
    time: datetime
    version: str
    wine: dict[str, float | str | None]
    score: float | None


class UtcTime(TypeDecorator):
    """A time in UTC, also where the database knows no time zones, as SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime, _dialect: Dialect) -> datetime:
        """Return a time as it is sent."""
        return utc(value)

    def process_result_value(self, value: datetime, _dialect: Dialect) -> datetime:
        """Return a time that was read."""
        return utc(value)


def utc(moment: datetime) -> datetime:
    """Return a time in UTC; one without a zone is taken as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


TABLE = Table(
    "predictions",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("time", UtcTime, nullable=False, index=True),
    Column("version", String, nullable=False, index=True),
    Column("type", String),
    *(Column(name, Double) for name in MEASUREMENTS),
    Column("score", Double),
)
DTYPES = dict.fromkeys(TABLE.columns.keys(), "float64") | dict.fromkeys(("id", "version", "type"), "str")
DTYPES["time"] = "datetime64[us, UTC]"
PARSED = TypeAdapter(Prediction)


def row(line: bytes) -> dict[str, Any]:
    """Return a line of the spool as a row of the table."""
    kept = PARSED.validate_json(line)
    features = {name: kept.wine.get(name) for name in FEATURES}
    return {"id": kept.id, "time": kept.time, "version": kept.version, "score": kept.score, **features}


@dataclass(frozen=True)
class Kind:
    """A kind of database: its driver, how patient a connection is, how one process alone writes, and its insert."""

    driver: str
    patience: dict[str, str]
    alone: str
    insert: Callable[[Table], Any]


SQLITE = Kind("sqlite", {"timeout": "2"}, "BEGIN IMMEDIATE", sqlite.insert)
POSTGRESQL = Kind(
    "postgresql+psycopg",
    {"connect_timeout": "2", "keepalives_idle": "5", "tcp_user_timeout": "10000"},
    "SET LOCAL statement_timeout = '2s'; SELECT pg_advisory_xact_lock(hashtext('wine_quality.predictions'))",
    postgresql.insert,
)
KINDS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "postgresql+psycopg": POSTGRESQL}


class Store:
    """The database of predictions.

    Parameters
    ----------
    url : str
        `sqlite:///<file>` or `postgresql://<user>:<password>@<host>/<database>`, as SQLAlchemy has it. What its query
        says of a connection (`?connect_timeout=5`) goes before what is usual here.

    Raises
    ------
    SettingsError
        The URL is none of these. The line does not show it, as there may be a password in it.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            self.kind = KINDS[parsed.drivername]
            patient = parsed.set(drivername=self.kind.driver, query=self.kind.patience | dict(parsed.query))
            self.engine = create_engine(patient, poolclass=NullPool)
        except (ArgumentError, KeyError, ValueError):
            raise unusable() from None
        in_memory = self.kind is SQLITE and parsed.database in (None, "", ":memory:")
        if in_memory or "@" in (parsed.host or ""):
            raise unusable()
        self.name = str(URL.create(self.engine.dialect.name, None, None, parsed.host, parsed.port, parsed.database))

    def insert(self, lines: list[bytes]) -> None:
        """Insert lines of a spool, all or none; ids that are there already stay as they are.

        The table is made where there is none.

        Raises
        ------
        ValueError
            A line is not a prediction.
        SQLAlchemyError
            The database is away, or refuses.
        """
        statement = self.kind.insert(TABLE).on_conflict_do_nothing()
        with self.writing(TABLE) as connection:
            for some in batched(map(row, lines), BATCH):
                connection.execute(statement, some)

    @contextmanager
    def writing(self, *tables: Table) -> Iterator[Connection]:
        """Yield a connection on which this process alone writes, all or nothing; missing tables are created."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(self.kind.alone)
            for table in tables:
                table.metadata.create_all(connection)
            yield connection


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of `size`; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def json_lines(predictions: Iterable[Prediction]) -> bytes:
    """Return predictions as the lines that wait on the disk until they are inserted."""
    return b"".join(orjson.dumps(prediction, option=LINE) for prediction in predictions)


def insert_file(url: str, path: Path) -> None:
    """Insert a file of `json_lines` into the database, `INSERTED` lines at once; what is there already stays as it is.

    Parameters
    ----------
    url : str
        As that of `Store`.
    path : Path

    Raises
    ------
    PredictionsError
        The database is away, or refuses. Insert the same file again: each prediction is stored once, by its id.
    """
    store = Store(url)
    try:
        with path.open("rb") as lines:
            for some in batched(lines, INSERTED):
                store.insert(some)
    except SQLAlchemyError as error:
        raise PredictionsError(
            f"{store.name}: predictions cannot be stored ({told(error)}). Start it, or mend WINE_PREDICTIONS, and run "
            "again: each is stored once."
        ) from None


def unusable() -> SettingsError:
    """Return the error of a URL that names no database of a kind known here."""
    return SettingsError(
        "WINE_PREDICTIONS: not the address of a database that can be used. Write sqlite:///<file> or "
        "postgresql://<user>:<password>@<host>/<database>, with %40 for an @ in the password."
    )


def read(url: str, since: datetime | None = None) -> pd.DataFrame:
    """Read the predictions that are in the database, oldest first; the last second's may still be in the spool.

    Parameters
    ----------
    url : str
        As that of `Store`.
    since : datetime, optional
        Read only those of this time or later.

    Returns
    -------
    DataFrame of shape (n predictions, 16)
        `id`, `time` (UTC), `version`, the 12 features in the units of `MEASUREMENTS`, NaN where blank, and `score`.
        Without a row where nothing has been kept yet.

    Raises
    ------
    PredictionsError
        The database is away, or refuses.
    """
    store = Store(url)
    kept = select(TABLE).order_by(TABLE.c.time, TABLE.c.id)
    if since is not None:
        kept = kept.where(TABLE.c.time >= since)
    try:
        with store.engine.connect() as connection:
            rows = connection.execute(kept).all() if inspect(connection).has_table(TABLE.name) else []
    except SQLAlchemyError as error:
        raise PredictionsError(
            f"{store.name}: cannot be read ({told(error)}). Start it, or mend WINE_PREDICTIONS."
        ) from None
    return pd.DataFrame(rows, columns=TABLE.columns.keys()).astype(DTYPES)


def told(error: Exception) -> str:
    """Return what an error says, in one line and without what was sent."""
    return shorten(str(error.orig if isinstance(error, DBAPIError) else error), SHOWN)


class Predictions:
    """What keeps predictions: `keep` puts them into the spool, a thread ships them to the database.

    Several processes may use the same spool and the same database.

    Parameters
    ----------
    spool : Path
        A folder on a local disk.
    url : str
        As that of `Store`.

    Raises
    ------
    SettingsError
        The URL cannot be used.
    DataError
        The folder cannot be made.
    """

    def __init__(self, spool: Path, url: str) -> None:
        self.store = Store(url)
        self.spool = Spool(spool)
        self.trouble = Trouble(self.store.name)
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.ship_all_along, name="predictions", daemon=True)
        self.thread.start()

    def keep(self, predictions: list[Prediction]) -> bool:
        """Keep predictions, all or none, and say whether they are kept: False where the disk is full or refuses.

        What is kept outlives the process, however that ends, and comes into the database once. It was given to the
        operating system, which writes it to the disk within seconds: a machine that loses power may lose those.
        """
        return self.spool.add(json_lines(predictions))

    def close(self) -> None:
        """Ship what the database takes at once, and stop. The rest stays in the spool for the next process."""
        self.closing.set()
        self.thread.join(CLOSE_SECONDS)
        self.spool.cut()

    def ship_all_along(self) -> None:
        """Ship every second, less often while the database is away, and once more at the end."""
        wait = SHIP_SECONDS
        while not self.closing.wait(wait):
            wait = SHIP_SECONDS if self.ship() else min(2 * wait, LONGEST_WAIT)
        self.spool.cut()
        self.ship()

    def ship(self) -> bool:
        """Ship all segments that nobody holds, and say whether the database took them.

        While it is away the segment is not cut, so that they stay few.
        """
        try:
            self.spool.measure()
            if not self.trouble.now:
                self.spool.cut()
            for segment in self.spool.segments():
                self.ship_one(segment)
        except (SQLAlchemyError, OSError) as error:
            self.trouble.begins(f"predictions wait in {self.spool.folder} ({told(error)})")
            return False
        self.trouble.ends()
        return True

    def ship_one(self, segment: Path) -> None:
        """Insert the lines of a segment and delete it, or put it aside where the database will never take them."""
        if not (file := opened(segment)):
            return
        with file:
            *lines, _torn = file.read().split(b"\n")
            try:
                if lines:
                    self.store.insert(lines)
                segment.unlink(missing_ok=True)
            except (ValueError, DataError, IntegrityError) as error:
                aside = segment.rename(segment.with_suffix(".refused"))
                log.error("%s: put aside (%s). Mend its lines and name it %s.", aside, told(error), segment.name)
