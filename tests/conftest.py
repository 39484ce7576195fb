"""What every test stands on: a clean environment, a home of its own, no network, and a few wines."""

import atexit
import csv
import ipaddress
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("WINE_REAL_DATA") or REPOSITORY.parent / "shared" / "wine_data")

# what a test starts inherits an ignored SIGINT, as under nohup or in the background of a script
signal.signal(signal.SIGINT, signal.default_int_handler)

# before the first import of mlflow, prefect and orchestration, which read the environment there and then
FOREIGN = ("WINE_", "AWS_", "MLFLOW_", "PREFECT_", "MAKE", "MFLAGS")  # the last two are of `make test` itself
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "no_proxy"}
for name in list(os.environ):
    if name.lower() in PROXIES or (name.startswith(FOREIGN) and name != "WINE_REAL_DATA"):  # the workers need that one
        del os.environ[name]
STATE = Path(tempfile.mkdtemp(prefix="wine-tests-"))
atexit.register(shutil.rmtree, STATE, ignore_errors=True)
CLEAN = {
    "WINE_HOME": str(STATE),
    "PREFECT_HOME": str(STATE / "prefect"),
    "AWS_CONFIG_FILE": str(STATE / "no-aws-config"),
    "AWS_SHARED_CREDENTIALS_FILE": str(STATE / "no-aws-credentials"),
}
os.environ.update(CLEAN)

from wine_quality import environment  # noqa: E402

environment.apply()

import boto3  # noqa: E402
import mlflow  # noqa: E402
import pandas as pd  # noqa: E402
import requests  # noqa: E402
from botocore.client import BaseClient  # noqa: E402
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings  # noqa: E402

from wine_quality import sources, splits, tracking  # noqa: E402
from wine_quality.config import Settings, settings  # noqa: E402
from wine_quality.local_s3 import local_s3  # noqa: E402
from wine_quality.schema import COLUMNS, MEASUREMENTS, TYPES  # noqa: E402


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow tests last, the longest of them first."""
    longest = ("test_simulation.py", "test_notebooks_run.py")
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None, item.path.name not in longest))


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path) -> Iterator[None]:
    """Give the test `WINE_HOME` in its own folder; whatever it or a `.env` adds to the environment goes with it."""
    with mock.patch.dict(os.environ, CLEAN | {"WINE_HOME": str(tmp_path)}):
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # a fixture of the module may have set it, through MLflow
        yield


@pytest.fixture(autouse=True)
def cold_cache(request: pytest.FixtureRequest, clean_environment: None, tmp_path: Path) -> Iterator[None]:
    """Let no slow test find a task's result that another test has cached."""
    if not request.node.get_closest_marker("slow"):  # it takes 30 ms
        yield
        return
    results = str(tmp_path / "results")
    with (
        mock.patch.dict(os.environ, PREFECT_LOCAL_STORAGE_PATH=results),
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: results}),
    ):
        yield


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """Let no test reach beyond this machine; one that tries fails with the address."""
    look_up = socket.getaddrinfo

    def guarded(connect: Callable) -> Callable:
        def guarded_connect(self: socket.socket, address):
            if self.family != socket.AF_UNIX:
                refuse_beyond_loopback(address[0])
            return connect(self, address)

        return guarded_connect

    def guarded_lookup(host, *args, **kwargs):
        refuse_beyond_loopback(host)
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex"):
            patch.setattr(socket.socket, method, guarded(getattr(socket.socket, method)))
        patch.setattr(socket, "getaddrinfo", guarded_lookup)
        yield


def refuse_beyond_loopback(host: str | bytes | None) -> None:
    """Raise an error that no `except OSError` swallows where a host is not this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return
    with suppress(ValueError):
        address = ipaddress.ip_address(name)
        if address.is_loopback or address.is_unspecified:
            return
    raise RuntimeError(f"a test wants to reach {name}, and tests have no network but loopback")


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """The folder of the four real files; the test is skipped where they are not at hand."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real wine in {REAL_DATA}: set WINE_REAL_DATA to its folder")
    return REAL_DATA


@pytest.fixture
def wines() -> pd.DataFrame:
    """Six made-up wines, three red and three white, no two alike."""
    rows = [
        #        fixed volatile citric sugar chlorides free total density  pH   sulph. alc. quality
        ("red", 7.25, 0.655, 0.05, 1.95, 0.0815, 12, 36, 0.9968, 3.45, 0.58, 9.75, 5),
        ("red", 8.35, 0.525, 0.28, 2.25, 0.0925, 17, 58, 0.9977, 3.33, 0.65, 10.3, 6),
        ("red", 10.15, 0.375, 0.45, 2.65, 0.0735, 9, 25, 0.9989, 3.18, 0.77, 11.7, 7),
        ("white", 6.15, 0.245, 0.31, 1.45, 0.0425, 28, 110, 0.9906, 3.24, 0.44, 12.3, 7),
        ("white", 6.95, 0.275, 0.33, 7.85, 0.0475, 42, 151, 0.9953, 3.15, 0.48, 9.65, 6),
        ("white", 7.65, 0.415, 0.27, 13.15, 0.0535, 51, 188, 0.9981, 3.06, 0.52, 8.95, 4),
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(MEASUREMENTS, "float64"))


@pytest.fixture(scope="session")
def few_wines(tmp_path_factory: pytest.TempPathFactory, write_uci: Callable[[Path, pd.DataFrame], Path]) -> Path:
    """A folder of some 440 wines of the sample, 5 of them twice; it is not to be changed."""
    few = splits.distinct_rows(sources.sample("a test").table).iloc[::12]
    return write_uci(tmp_path_factory.mktemp("few") / "wine", pd.concat([few, few.head(5)]))


@pytest.fixture(scope="session")
def write_uci() -> Callable[[Path, pd.DataFrame], Path]:
    """A function that writes wines into a folder as UCI spells them, a file a colour, and returns the folder."""

    def write(folder: Path, wines: pd.DataFrame) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for colour in TYPES:
            table = wines.loc[wines["type"] == colour].drop(columns="type")
            table.columns = [name.replace("_", " ") for name in table.columns]
            file = folder / f"winequality-{colour}.csv"
            table.to_csv(file, sep=";", index=False, quoting=csv.QUOTE_NONNUMERIC)
        return folder

    return write


@pytest.fixture
def set_aws(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that names an S3 server by the usual AWS settings."""

    def name_server(url: str, key: str = "a-key-of-a-test", secret: str = "a-secret-of-a-test") -> None:
        account = {"ACCESS_KEY_ID": key, "SECRET_ACCESS_KEY": secret, "DEFAULT_REGION": "us-east-1"}
        for setting, value in {"ENDPOINT_URL_S3": url, **account}.items():
            monkeypatch.setenv(f"AWS_{setting}", value)

    return name_server


@pytest.fixture
def rclone(set_aws: Callable[..., None]) -> Iterator[Path]:
    """The folder of the laptop's own S3 server, which the AWS settings name; its bucket is empty."""
    with local_s3(settings()) as endpoint:
        set_aws(endpoint.url, endpoint.access_key, endpoint.secret_key)
        yield settings().local / "s3"


@pytest.fixture
def moto(set_aws: Callable[..., None]) -> Iterator[BaseClient]:
    """The client of an S3 server, moto's, that the AWS settings name; there is no bucket yet."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)  # what an earlier server held is still there
    set_aws(f"http://{host}:{port}")
    yield boto3.Session().client("s3")
    server.stop()


@pytest.fixture
def moto_bucket(moto: BaseClient, config: Settings):
    """The empty bucket of moto's server."""
    from orchestration.bucket import bucket_of_environment

    moto.create_bucket(Bucket=config.bucket)
    return bucket_of_environment(config)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; to make one takes MLflow seconds, to copy it none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    SqlAlchemyStore(f"sqlite:///{path}", str(path.parent)).engine.dispose()
    return path


@pytest.fixture
def config(empty_store: Path, tmp_path: Path) -> Settings:
    """The settings of a test whose MLflow store is ready and empty."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return settings()


@pytest.fixture
def store(config: Settings) -> tracking.Store:
    """The MLflow store of a test, which MLflow's own functions use in the test as well."""
    mlflow.set_tracking_uri(config.mlflow_uri)
    store = tracking.open_store(config)
    mlflow.set_experiment(experiment_id=store.experiment_id)
    return store


@pytest.fixture
def mlflow_at_home(tmp_path: Path) -> None:
    """Let MLflow's own functions in a test look into the store that the project has in its home."""
    mlflow.set_tracking_uri(settings().mlflow_uri)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter, as pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="wine-tests-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def without_rights() -> Callable[[], AbstractContextManager[None]]:
    """A context in which file permissions hold also for root, who acts as `nobody` there.

    Call the code once before, with your rights: what it imports late may lie where nobody may read.
    """

    @contextmanager
    def as_nobody() -> Iterator[None]:
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if is_root:
                os.seteuid(0)

    return as_nobody


@pytest.fixture
def full_disk() -> OSError:
    """The error of a disk without space."""
    return OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def prefect_api() -> Iterator[None]:
    """Prefect's own harness for flows in this process: an API over a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(scope="module")
def prefect_for_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of the module, to which commands report instead of starting one each."""
    from prefect.settings import PREFECT_API_URL
    from servers import prefect_server

    home = tmp_path_factory.mktemp("prefect")
    with prefect_server(home), mock.patch.dict(os.environ, PREFECT_API_URL=PREFECT_API_URL.value()):
        yield


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A Chromium that the tests of a module share."""
    from browser import chromium_without_screen

    with chromium_without_screen(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@pytest.fixture(scope="session")
def postgres() -> Iterator:
    """A PostgreSQL server that all tests share, each with databases of its own."""
    from postgres import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/predictions.db?timeout=0.1"
    return request.getfixturevalue("postgres").new_database(f"test-{uuid4()}")
