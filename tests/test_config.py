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
from sqlalchemy import create_engine

from monitoring.simulation import servers
from orchestration import up
from wine_quality.command import exit_code
from wine_quality.config import ROOT, settings
from wine_quality.errors import SettingsError


def test_without_any_setting_the_usual_ones_hold(monkeypatch):
    monkeypatch.delenv("WINE_HOME")
    monkeypatch.setattr("wine_quality.config.env_file", lambda: None)
    config = settings()
    assert (config.home, config.data, config.seed) == (ROOT, "auto", 42)
    assert config.mlflow_uri == f"sqlite:///{ROOT}/mlflow.db"
    assert config.mlflow_port != 5000


def test_everything_a_run_makes_lies_in_its_home(tmp_path):
    config = settings()
    assert config.home == tmp_path
    assert {config.raw_data, config.models, config.local, config.outbox, config.prediction_queue} == {
        tmp_path / "wine_data" / "raw",
        tmp_path / "models",
        tmp_path / ".local",
        tmp_path / ".local" / "outbox",
        tmp_path / ".local" / "predictions",
    }
    assert config.mlflow_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert config.predictions_uri == f"sqlite:///{tmp_path}/predictions.db"


ODD_HOME = "a #1%20b'c\"d; $HOME é&"


def test_databases_and_artifacts_lie_in_a_home_with_odd_letters(tmp_path, monkeypatch):
    home = tmp_path / ODD_HOME
    home.mkdir()
    monkeypatch.setenv("WINE_HOME", str(home))
    config = settings()
    for address in (config.mlflow_uri, config.predictions_uri):
        with create_engine(address).begin() as connection:
            connection.exec_driver_sql("CREATE TABLE here (id INTEGER)")
    (tmp_path / "artifact").touch()
    get_artifact_repository(up.environment(config)["ARTIFACTS"]).log_artifact(str(tmp_path / "artifact"))
    assert {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()} == {
        "mlflow.db",
        "predictions.db",
        "mlruns/artifact",
    }


def test_a_shell_starts_the_servers_with_the_folders_of_such_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("WINE_HOME", str(tmp_path / ODD_HOME))
    config = settings()
    for command in parse_procfile(up.PROCFILE.read_text()).processes.values():
        printed = re.sub(r"^(.* && )?(exec )?(\S+)", f"{sys.executable} -c 'import sys; print(sys.argv[1:])'", command)
        said = subprocess.check_output(printed, shell=True, env=up.environment(config), text=True)
        given = [word for word in literal_eval(said) if ODD_HOME in word or ODD_HOME in unquote(word)]
        assert set(given) <= {config.mlflow_uri, (config.home / "mlruns").as_uri(), str(config.local / "s3")}
        assert len(given) == command.count('"$')


def test_the_simulation_reads_back_its_settings_in_such_a_home(tmp_path, few_wines):
    home = tmp_path / ODD_HOME
    servers.create_home(home, "short", settings(data=str(few_wines)))
    assert servers.environment(home)["WINE_DATA"] == str(home / "wine")


def test_a_home_that_no_database_address_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WINE_HOME", str(tmp_path / "why?"))
    with pytest.raises(
        SettingsError, match=r"^WINE_HOME=.*a path with a \? cannot be used, because .* Mend it in the "
    ):
        settings()


def test_a_relative_home_counts_from_the_projects_root_wherever_the_reader_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings(home="here").home == ROOT / "here"
    assert settings(home="here").mlflow_uri == f"sqlite:///{ROOT}/here/mlflow.db"


def test_an_override_wins_over_the_environment_and_that_over_the_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("WINE_DATA=uci\nWINE_SEED=1\nWINE_BUCKET=cellar\n")
    monkeypatch.setenv("WINE_SEED", "2")
    monkeypatch.setenv("WINE_DATA", "kaggle")
    config = settings(data="sample", seed=None)
    assert (config.data, config.seed, config.bucket) == ("sample", 2, "cellar")


def test_the_settings_leave_the_environment_as_it_is_and_a_command_adds_the_file_to_it(tmp_path):
    (tmp_path / ".env").write_text("WINE_SEED=1\nAWS_PROFILE=cellar\nWINE_UNKNOWN=1\n")
    before = dict(os.environ)
    assert settings().seed == 1
    assert os.environ == before
    assert exit_code(lambda: int(os.environ["AWS_PROFILE"] == "cellar")) == 1


def test_an_empty_variable_is_as_if_not_set(monkeypatch):
    monkeypatch.setenv("WINE_SEED", "")
    assert settings().seed == 42


def test_the_tracking_store_is_the_one_mlflow_is_told_of_else_sqlite(tmp_path, monkeypatch):
    assert settings().mlflow_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5500")
    assert settings().mlflow_uri == "http://127.0.0.1:5500"


def test_the_database_of_predictions_is_the_one_that_is_set(monkeypatch):
    monkeypatch.setenv("WINE_PREDICTIONS", "postgresql://wine:corked@127.0.0.1/wine")
    assert settings().predictions_uri == "postgresql://wine:corked@127.0.0.1/wine"


@pytest.mark.parametrize("name", ["WINE_PREDICTIONS", "WINE_WEBHOOK"])
def test_a_setting_that_may_contain_a_secret_is_shown_nowhere(monkeypatch, name):
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
    ],
)
def test_a_value_of_the_wrong_kind_is_named(monkeypatch, name, value, why):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}='{value}': .*{why}.* Mend it in the environment or in \.env\.$"):
        settings()


def test_all_wrong_values_are_told_at_once(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("WINE_PREFECT_PORT=none\n")
    monkeypatch.setenv("WINE_SEED", "often")
    with pytest.raises(SettingsError, match=r"^WINE_SEED=.*; WINE_PREFECT_PORT=.*$"):
        settings()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"WINE_DATA=\x00"])
def test_a_dotenv_that_cannot_be_read_is_told(tmp_path, content):
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^{tmp_path}/\.env: cannot be read \(.*\)\. Mend it or take it away\.$"):
        settings()


def test_a_dotenv_without_read_permission_is_told(open_folder, monkeypatch, without_rights):
    (open_folder / ".env").touch(mode=0o644)
    monkeypatch.setenv("WINE_HOME", str(open_folder))
    settings()
    with without_rights():
        settings()
    (open_folder / ".env").chmod(0)
    with without_rights(), pytest.raises(SettingsError, match=rf"^{open_folder}/\.env: cannot be read"):
        settings()


def test_settings_do_not_change_during_a_run():
    with pytest.raises(ValidationError, match="frozen"):
        settings().seed = 1


def test_a_home_is_a_path_however_it_is_given():
    assert settings(home="cellar").home == ROOT / "cellar"
