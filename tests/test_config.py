import os
import re
import subprocess
import sys
from ast import literal_eval
from urllib.parse import unquote

import pytest
from fastapi.encoders import jsonable_encoder
from honcho.environ import parse_procfile
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pydantic import ValidationError
from sqlalchemy import NullPool, create_engine

from monitoring.simulation import servers
from orchestration import up
from wine_quality.command import exit_code
from wine_quality.config import ROOT, settings
from wine_quality.errors import SettingsError

ODD_HOME = "a #1%20b'c\"d; $HOME é&"


def test_the_defaults_do_not_depend_on_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("WINE_HOME")
    monkeypatch.setattr("wine_quality.config.env_file", lambda: None)
    monkeypatch.chdir(tmp_path)
    config = settings()
    assert (config.home, config.data, config.seed) == (ROOT, "auto", 42)
    assert config.mlflow_uri == f"sqlite:///{ROOT}/mlflow.db"
    assert config.mlflow_port != 5000
    assert settings(home="here").home == ROOT / "here"
    assert settings(home="here").mlflow_uri == f"sqlite:///{ROOT}/here/mlflow.db"
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1


def test_everything_that_a_run_writes_is_under_home(tmp_path):
    config = settings()
    assert config.home == tmp_path
    folders = (config.raw_data, config.models, config.local, config.outbox, config.prediction_queue)
    names = ("wine_data/raw", "models", ".local", ".local/outbox", ".local/predictions")
    assert folders == tuple(tmp_path / name for name in names)
    assert config.mlflow_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert config.predictions_uri == f"sqlite:///{tmp_path}/predictions.db"


def test_databases_and_artifacts_work_in_a_home_with_special_characters(tmp_path, monkeypatch):
    home = tmp_path / ODD_HOME
    home.mkdir()
    monkeypatch.setenv("WINE_HOME", str(home))
    config = settings()
    for address in (config.mlflow_uri, config.predictions_uri):
        with create_engine(address, poolclass=NullPool).begin() as connection:
            connection.exec_driver_sql("CREATE TABLE here (id INTEGER)")
    (tmp_path / "artifact").touch()
    get_artifact_repository(up.environment(config)["ARTIFACTS"]).log_artifact(str(tmp_path / "artifact"))
    files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert files == {"mlflow.db", "predictions.db", "mlruns/artifact"}


def test_a_shell_starts_the_servers_with_paths_in_such_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("WINE_HOME", str(tmp_path / ODD_HOME))
    config = settings()
    for command in parse_procfile(up.PROCFILE.read_text()).processes.values():
        printing = re.sub(r"^(.* && )?(exec )?(\S+)", f"{sys.executable} -c 'import sys; print(sys.argv[1:])'", command)
        printed = subprocess.check_output(printing, shell=True, env=up.environment(config), text=True)
        words = [word for word in literal_eval(printed) if ODD_HOME in word or ODD_HOME in unquote(word)]
        assert set(words) <= {config.mlflow_uri, (config.home / "mlruns").as_uri(), str(config.local / "s3")}
        assert len(words) == command.count('"$')


def test_the_simulation_reads_its_settings_in_such_a_home(tmp_path, few_wines):
    home = tmp_path / ODD_HOME
    servers.create_home(home, "short", settings(data=str(few_wines)))
    assert servers.environment(home)["WINE_DATA"] == str(home / "wine")


def test_overrides_take_precedence_over_the_environment_and_that_over_the_env_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("WINE_DATA=uci\nWINE_SEED=1\nWINE_BUCKET=red\nAWS_PROFILE=ours\nWINE_UNKNOWN=1\n")
    monkeypatch.setenv("WINE_DATA", "kaggle")
    monkeypatch.setenv("WINE_SEED", "")  # counts as not set
    before = dict(os.environ)
    assert settings().seed == 1
    assert os.environ == before
    assert exit_code(lambda: int(os.environ["AWS_PROFILE"] == "ours")) == 1
    monkeypatch.setenv("WINE_SEED", "2")
    config = settings(data="sample", seed=None)
    assert (config.data, config.seed, config.bucket) == ("sample", 2, "red")


def test_store_addresses_come_from_the_settings(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5500")
    monkeypatch.setenv("WINE_PREDICTIONS", "postgresql://wine:corked@127.0.0.1/wine")
    assert settings().mlflow_uri == "http://127.0.0.1:5500"
    assert settings().predictions_uri == "postgresql://wine:corked@127.0.0.1/wine"


@pytest.mark.parametrize("name", ["WINE_PREDICTIONS", "WINE_WEBHOOK"])
def test_a_setting_that_may_contain_a_secret_is_never_printed(monkeypatch, name):
    monkeypatch.setenv(name, "https://somebody:corked@127.0.0.1/wine")
    shown = [repr(settings()), str(settings()), settings().model_dump_json(), str(jsonable_encoder(settings()))]
    assert not [text for text in shown if "corked" in text]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("WINE_SEED", "often", "unable to parse string as an integer"),
        ("WINE_SEED", "-1", "greater than or equal to 0"),
        ("WINE_SEED", "4294967296", "less than or equal to 4294967295"),
        ("WINE_SERVE_PORT", "0", "greater than or equal to 1"),
        ("WINE_S3_PORT", "0", "greater than or equal to 1"),
        ("WINE_MLFLOW_PORT", "65536", "less than or equal to 65535"),
        ("WINE_HOME", "/why?", r"a path with a \? cannot be used, because "),
    ],
)
def test_all_invalid_values_are_named_at_once(tmp_path, monkeypatch, name, value, why):
    monkeypatch.setenv(name, value)
    line = rf"^{name}='{re.escape(value)}': .*{why}.* Fix it in the environment or in \.env\.$"
    with pytest.raises(SettingsError, match=line):
        settings()
    if value == "often":
        (tmp_path / ".env").write_text("WINE_PREFECT_PORT=none\n")
        with pytest.raises(SettingsError, match=r"^WINE_SEED=.*; WINE_PREFECT_PORT=.*$"):
            settings()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"WINE_DATA=\x00"])
def test_an_unreadable_env_file_is_named(tmp_path, content):
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^{tmp_path}/\.env: cannot be read \(.*\)\. Fix it or delete it\.$"):
        settings()


def test_an_env_file_without_read_permission_is_named(open_folder, monkeypatch, without_rights):
    (open_folder / ".env").touch(mode=0o644)
    monkeypatch.setenv("WINE_HOME", str(open_folder))
    settings()
    with without_rights():
        settings()
    (open_folder / ".env").chmod(0)
    with without_rights(), pytest.raises(SettingsError, match=rf"^{open_folder}/\.env: cannot be read"):
        settings()
