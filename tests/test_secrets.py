"""No secret is left behind: each setting that may hold one is a random canary, which is looked for in every byte.

The commands run as a reader's would, against real servers: Prefect with a password of its own, PostgreSQL, S3 and a
webhook. Each kind of run succeeds once and fails once. A file that only its owner can read may hold a secret.
"""

import base64
import os
import secrets
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from unittest import mock
from uuid import uuid4

import orjson
import pandas as pd
import psycopg
import pytest
import servers
from conftest import CLEAN
from loopback import ANY_PORT, Quiet, serving
from postgres import postgres_server
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from receiver import receiver
from servers import prefect_server

from wine_quality import sources, tracking
from wine_quality.config import settings
from wine_quality.errors import TrackingError
from wine_quality.local_s3 import local_s3
from wine_quality.ports import free_port
from wine_quality.predictions import Database, Prediction
from wine_quality.schema import FEATURES
from wine_quality.splits import distinct_rows

pytestmark = pytest.mark.slow

NAMES = ("database", "webhook", "s3", "wrong-s3", "mlflow", "prefect", "wrong-database")
CANARIES = {name: secrets.token_hex(16) for name in NAMES}
TRAIN = """
from orchestration import startup, train
startup.connect_quietly()
startup.log_to_screen()
train.train_wine_quality(max_evals=1)
"""


def spellings(canary: str) -> list[bytes]:
    """Return a canary as it stands in a file, and in base64 wherever in a text it begins."""
    coded = [base64.b64encode(b"\0" * shift + canary.encode())[4 * (shift > 0) : -4] for shift in range(3)]
    return [canary.encode(), *coded]


def holding(canary: str, *folders: Path) -> list[str]:
    """Return the files in which a canary stands, but for those that their owner alone can read."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    open_to_others = [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    return [str(path) for path in open_to_others if any(one in path.read_bytes() for one in spellings(canary))]


@pytest.fixture(scope="module")
def lived(tmp_path_factory, few_wines) -> tuple[Path, list[str], list[tuple[int, str]]]:
    """A home in which every kind of run was made; the secrets in PostgreSQL's files; exit codes and output."""
    home = tmp_path_factory.mktemp("home")
    ended: list[tuple[int, str]] = []

    def command(*words: str, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, *words], env={**os.environ, **environment}, capture_output=True, text=True, timeout=900
        )
        ended.append((done.returncode, done.stdout + done.stderr))

    auth = f"admin:{CANARIES['prefect']}"
    own = {**CLEAN, "WINE_HOME": str(home), "WINE_DATA": str(few_wines), "WINE_SERVE_PORT": str(free_port())}
    own |= {"PREFECT_HOME": str(home / "prefect"), "AWS_ACCESS_KEY_ID": "a-key", "WINE_SEED": "77"}
    own |= {"PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_API_AUTH_STRING": auth}
    with (
        mock.patch.dict(os.environ, own),
        temporary_settings({PREFECT_API_AUTH_STRING: auth}),
        prefect_server(home / "prefect"),
        postgres_server() as database,
        receiver() as chat,
    ):
        keys = home / ".local" / "s3-keys"
        keys.parent.mkdir(parents=True, exist_ok=True)
        keys.touch(mode=0o600)
        keys.write_text(f"a-key,{CANARIES['s3']}")
        with local_s3(settings()) as s3:
            os.environ |= {
                "PREFECT_API_URL": PREFECT_API_URL.value(),
                "AWS_ENDPOINT_URL_S3": s3.url,
                "AWS_SECRET_ACCESS_KEY": CANARIES["s3"],
                "WINE_PREDICTIONS": database_of(database, CANARIES["database"]),
                "WINE_WEBHOOK": f"http://127.0.0.1:{chat.server_port}/{CANARIES['webhook']}",
            }
            command("-c", TRAIN)
            incoming = home / ".local" / "s3" / "wine-quality" / "incoming"
            incoming.mkdir()
            wines = distinct_rows(sources.sample("a test").table).dropna()
            wines.head(20).to_csv(incoming / "monday.csv", index=False)
            command("-m", *servers.SCORE)
            predict(wines[wines["type"] == "white"])
            command("-m", *servers.MONITOR)
            command("-m", "orchestration.deploy")
            assert [code for code, _ in ended] == [0] * 4, ended
            assert len(chat.got) == 1, ended[2]
            away = f"http://wine:{CANARIES['mlflow']}@127.0.0.1:{free_port()}"
            command("-c", TRAIN, MLFLOW_TRACKING_URI=away)
            command("-m", *servers.SCORE, MLFLOW_TRACKING_URI=away)
            predict(wines[wines["type"] == "red"])
            chat.answers = [503] * 4
            (home / "monitoring" / "reports").rename(home / "monitoring" / "earlier")  # so that it is news again
            command("-m", *servers.MONITOR)
            wrong = os.environ["WINE_PREDICTIONS"].replace(CANARIES["database"], CANARIES["wrong-database"])
            command("-m", *servers.MONITOR, WINE_PREDICTIONS=wrong)
        with local_s3(settings()) as s3:  # refuses the secret, which the block has; and then there is no block
            wrong = {"AWS_ENDPOINT_URL_S3": s3.url, "AWS_SECRET_ACCESS_KEY": CANARIES["wrong-s3"]}
            command("-c", "from prefect_aws import S3Bucket; S3Bucket.delete('wine-bucket')")
            command("-c", TRAIN, WINE_SEED="78", **wrong)
            command("-m", *servers.SCORE, **wrong)
        in_database = [name for name in NAMES if holding(CANARIES[name], database.data)]
    return home, in_database, ended


def database_of(server, password: str) -> str:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE taster LOGIN PASSWORD '{password}'")
        connection.execute("CREATE DATABASE wine OWNER taster")
    return f"postgresql://taster:{password}@127.0.0.1:{server.port}/wine"


def predict(wines: pd.DataFrame) -> None:
    """Put predictions of wines that have drifted into the database, so that there is something to alert people to."""
    drifted = wines.head(40).assign(alcohol=14.0, pH=3.9, sulphates=1.5, density=1.0)[FEATURES]
    now = datetime.now(UTC)
    predictions = [Prediction(str(uuid4()), now, "1", wine, 5.8) for wine in drifted.to_dict("records")]
    Database(settings().predictions_uri).insert([orjson.dumps(one) for one in predictions])


def test_every_kind_of_run_ended_well_once_and_badly_once(lived):
    _, _, ended = lived
    codes = [code for code, _ in ended]
    assert (codes[:6], codes[7:]) == ([0, 0, 0, 0, 1, 1], [1, 0, 1, 1]), ended
    assert "the webhook answered 503" in ended[6][1]


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_stands_in_no_file_no_database_and_no_line(name, lived):
    home, in_database, ended = lived
    assert holding(CANARIES[name], home) == []
    assert name not in in_database
    assert not [printed for _, printed in ended if any(one.decode() in printed for one in spellings(CANARIES[name]))]


@pytest.fixture
def refusing() -> Iterator[tuple[int, list[str]]]:
    """The port of an MLflow server that lets nobody in, and what it was given as authorisation."""
    given: list[str] = []

    class Refusing(Quiet):
        def do_GET(self) -> None:
            given.append(self.headers["Authorization"])
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(ThreadingHTTPServer(ANY_PORT, Refusing)) as server:
        yield server.server_port, given


def test_an_mlflow_server_gets_its_password_and_no_traceback_shows_it(refusing, monkeypatch):
    port, given = refusing
    canary = secrets.token_hex(16)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://wine:{canary}%21@127.0.0.1:{port}")
    with pytest.raises(TrackingError, match="401") as caught, tracking.store(settings()):
        pass
    assert given[0] == f"Basic {base64.b64encode(f'wine:{canary}!'.encode()).decode()}"
    assert canary not in "".join(traceback.format_exception(caught.value))
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == f"{canary}!"


def test_the_search_finds_a_canary_in_plain_and_in_base64(tmp_path):
    canary = secrets.token_hex(16)
    for shift in range(3):
        (tmp_path / f"coded-{shift}").write_bytes(base64.b64encode(b"x" * (3 + shift) + canary.encode() + b"y" * 5))
    (tmp_path / "plain").write_bytes(b"\0" + canary.encode())
    (tmp_path / "owned").touch(mode=0o600)
    (tmp_path / "owned").write_text(canary)
    assert len(holding(canary, tmp_path)) == 4
