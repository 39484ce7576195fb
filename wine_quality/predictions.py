"""Every prediction is stored: at once in a queue on the local disk, soon after in a database.

A thread inserts the queue's lines into the database and then deletes them (see `disk_queue`). A response never waits
for the database, and nothing is lost while that is away, locked or slow: the lines stay on disk even if the process is
killed, and the next process on the same queue inserts them. Ids make a line that is inserted twice one prediction.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from sqlalchemy import Column, DateTime, Double, MetaData, Select, String, Table, create_engine, func, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Dialect, Row, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeDecorator

from wine_quality.disk_queue import DiskQueue, Outage, open_segment
from wine_quality.errors import PredictionsError, SettingsError
from wine_quality.schema import FEATURES, MEASUREMENTS, TYPE

FLUSH_SECONDS, MAX_WAIT = 1.0, 30.0  # between two flushes, and at most while the database is away
CLOSE_SECONDS = 5.0
BATCH = 100  # rows a statement: the thread gives way to requests in between
TRANSACTION = 10_000  # lines of a file in one transaction
LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC
EPOCH, LATEST = datetime.fromtimestamp(0, UTC), datetime.max.replace(tzinfo=UTC)
SHOWN = 300  # characters of an error of the database

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """A prediction of a version of the model at a time (UTC); `features` are the 12 by name, NaN if missing.

    `low` and `high` are the ends of its interval, None or NaN if the version has none.
    """

    id: str
    time: datetime
    version: str
    features: dict[str, float | str | None]
    score: float | None
    low: float | None = None
    high: float | None = None


class UtcTime(TypeDecorator):
    """A time in UTC, even in a database without time zones such as SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime, dialect: Dialect) -> datetime:
        """Convert a time that is written or was read; one without a zone is taken as UTC."""
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    process_result_value = process_bind_param  # pyright: ignore[reportAssignmentType]


TABLE = Table(
    "predictions",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("time", UtcTime, nullable=False, index=True),
    Column("version", String, nullable=False, index=True),
    Column(TYPE, String),
    *(Column(name, Double) for name in MEASUREMENTS),
    *(Column(name, Double) for name in ("score", "low", "high")),
)
DTYPES = dict.fromkeys(TABLE.columns.keys(), "float64") | dict.fromkeys(("id", "version", TYPE), "str")
DTYPES["time"] = "datetime64[us, UTC]"
PARSER = TypeAdapter(Prediction)


def to_row(line: bytes) -> dict[str, Any]:
    """Return a line of the queue as a row of the table."""
    one = PARSER.validate_json(line)
    features = {name: one.features.get(name) for name in FEATURES}
    about = {"id": one.id, "time": one.time, "version": one.version}
    return {**about, "score": one.score, "low": one.low, "high": one.high, **features}


@dataclass(frozen=True)
class Backend:
    """A kind of database: its driver, timeouts, the statement that locks it for one writer, and its insert."""

    driver: str
    timeouts: dict[str, str]
    lock: str
    insert: Callable[[Table], Any]


SQLITE = Backend("sqlite", {"timeout": "2"}, "BEGIN IMMEDIATE", sqlite.insert)
POSTGRESQL = Backend(
    "postgresql+psycopg",
    {"connect_timeout": "2", "keepalives_idle": "5", "tcp_user_timeout": "10000"},
    "SET LOCAL statement_timeout = '2s'; SELECT pg_advisory_xact_lock(hashtext('wine_quality.predictions'))",
    postgresql.insert,
)
BACKENDS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "postgresql+psycopg": POSTGRESQL}
INVALID_URL = (
    "WINE_PREDICTIONS: not the address of a database that can be used. Write sqlite:///<file> or "
    "postgresql://<user>:<password>@<host>/<database>, with %40 for an @ in the password."
)


class Database:
    """The database of predictions, `sqlite:///<file>` or `postgresql://<user>:<password>@<host>/<database>`.

    The URL is in SQLAlchemy's format; its query (`?connect_timeout=5`) overrides the timeouts that are set here. Raise
    `SettingsError` if it is neither, without showing it, because it may contain a password.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            self.backend = BACKENDS[parsed.drivername]
            query = self.backend.timeouts | dict(parsed.query)
            self.engine = create_engine(parsed.set(drivername=self.backend.driver, query=query), poolclass=NullPool)
        except (ArgumentError, KeyError, ValueError):
            raise SettingsError(INVALID_URL) from None
        in_memory = self.backend is SQLITE and parsed.database in (None, "", ":memory:")
        if in_memory or "@" in (parsed.host or ""):
            raise SettingsError(INVALID_URL)
        self.name = str(URL.create(self.engine.dialect.name, None, None, parsed.host, parsed.port, parsed.database))

    def insert(self, lines: list[bytes], batch: int = BATCH) -> None:
        """Insert lines of a queue, `batch` rows a statement, all or none; rows whose ids exist stay as they are.

        Raise `ValueError` if a line is not a prediction, `SQLAlchemyError` if the database is away or refuses.
        """
        statement = self.backend.insert(TABLE).on_conflict_do_nothing()
        with self.transaction(TABLE) as connection:
            for rows in batched(map(to_row, lines), batch):
                connection.execute(statement, rows)

    @contextmanager
    def transaction(self, *tables: Table) -> Iterator[Connection]:
        """Yield a connection on which this process is the only writer; create missing tables."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(self.backend.lock)
            for table in tables:
                table.metadata.create_all(connection)
                add_missing_columns(connection, table)
            yield connection

    def create_missing(self, *tables: Table) -> None:
        """Create the tables that do not exist; without such a table, nothing is locked."""
        with self.engine.connect() as connection:
            missing = [table for table in tables if not inspect(connection).has_table(table.name)]
        if missing:
            with self.transaction(*missing):
                pass

    def fetch(self, statement: Select, *tables: Table) -> Sequence[Row]:
        """Return the rows of a query; none if one of its tables does not exist yet."""
        with self.errors("cannot be read"), self.engine.begin() as connection:
            if not all(inspect(connection).has_table(table.name) for table in tables):
                return []
            for table in tables:
                add_missing_columns(connection, table)
            return connection.execute(statement).all()

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn an error of the database into a `PredictionsError` that says what failed."""
        try:
            yield
        except SQLAlchemyError as error:
            raise PredictionsError(
                f"{self.name}: {what} ({one_line(error)}). Start it, or fix WINE_PREDICTIONS, and run again."
            ) from None


def add_missing_columns(connection: Connection, table: Table) -> None:
    """Add the columns that a table from before them lacks; its rows have NULL there."""
    existing = {column["name"] for column in inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in existing:
            of_type = column.type.compile(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {of_type}")


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of `size`; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def json_lines(predictions: Iterable[Prediction]) -> bytes:
    """Return predictions as the lines that wait on disk until they are inserted."""
    return b"".join(orjson.dumps(prediction, option=LINE) for prediction in predictions)


def insert_file(url: str, path: Path) -> None:
    """Insert a file of `json_lines`, also one that was inserted before; a `PredictionsError` says why that fails."""
    database = Database(url)
    with database.errors("predictions cannot be stored"), path.open("rb") as file:
        for lines in batched(file, TRANSACTION):
            database.insert(lines, TRANSACTION)


def load(url: str, since: datetime = EPOCH, until: datetime = LATEST) -> pd.DataFrame:
    """Return the predictions from a time on and before another, oldest first, as a table of shape (n predictions, 18).

    Its columns are `id`, `time` (UTC), `version`, the 12 features in the units of `MEASUREMENTS`, NaN if missing,
    `score`, `low` and `high`. Those of the last second may still be in the queue. Raise `PredictionsError` if the
    database is away.
    """
    period = TABLE.c.time >= since, TABLE.c.time < until
    statement = select(TABLE).where(*period).order_by(TABLE.c.time, TABLE.c.id)
    return pd.DataFrame(Database(url).fetch(statement, TABLE), columns=TABLE.columns.keys()).astype(DTYPES)


def count(url: str, since: datetime = EPOCH) -> int:
    """Return how many predictions `load` would return."""
    rows = Database(url).fetch(select(func.count()).select_from(TABLE).where(TABLE.c.time >= since), TABLE)
    return rows[0][0] if rows else 0


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, without the statement and its values."""
    return shorten(str(error.orig if isinstance(error, DBAPIError) else error), SHOWN)


class PredictionStore:
    """Stores predictions: `add` puts them into the queue in a folder, and a thread inserts them into the database.

    Several processes may share a folder and a database. `max_wait` is the time between flushes while that is away, in
    seconds. Raise `SettingsError` if the URL cannot be used, `DataError` if the folder cannot be created.
    """

    def __init__(
        self, folder: Path, url: str, flush_seconds: float = FLUSH_SECONDS, max_wait: float = MAX_WAIT
    ) -> None:
        self.database = Database(url)
        self.queue = DiskQueue(folder)
        self.outage = Outage(self.database.name)
        self.flush_seconds, self.max_wait = flush_seconds, max_wait
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.run, name="predictions", daemon=True)
        self.thread.start()

    def add(self, predictions: list[Prediction]) -> bool:
        """Store predictions, all or none; return False if the disk is full or refuses.

        They outlive the process, however it ends, and reach the database once. A power failure may lose the last ones.
        """
        return self.queue.add(json_lines(predictions))

    def close(self) -> None:
        """Flush what the database takes at once, and stop. The rest stays in the queue for the next process."""
        self.closing.set()
        self.thread.join(CLOSE_SECONDS)
        self.queue.release()

    def run(self) -> None:
        """Flush every second, less often while the database is away, and once more at the end."""
        wait = self.flush_seconds
        while not self.closing.wait(wait):
            wait = self.flush_seconds if self.flush() else min(2 * wait, self.max_wait)
        self.queue.release()
        self.flush()

    def flush(self) -> bool:
        """Insert all segments that nobody holds, and return whether the database took them."""
        try:
            self.queue.measure()
            if not self.outage.error:  # while the database is away, one segment grows: few are better than many
                self.queue.release()
            for segment in self.queue.segments():
                self.insert_segment(segment)
        except (SQLAlchemyError, OSError) as error:
            self.outage.begin(f"predictions wait in {self.queue.folder} ({one_line(error)})")
            return False
        self.outage.end()
        return True

    def insert_segment(self, segment: Path) -> None:
        """Insert the lines of a segment and delete it, or set it aside if the database will never take them."""
        if not (file := open_segment(segment)):
            return
        with file:
            *lines, _partial = file.read().split(b"\n")
            try:
                if lines:
                    self.database.insert(lines)
                segment.unlink(missing_ok=True)
            except (ValueError, DataError, IntegrityError) as error:
                aside = segment.rename(segment.with_suffix(".refused"))
                log.error("%s: set aside (%s). Fix its lines and name it %s.", aside, one_line(error), segment.name)
