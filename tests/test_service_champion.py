"""The service while its registry moves, breaks or is tampered with: it swaps, or says why not and serves on."""

import re
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import requests
from mlflow import MlflowClient
from served import WINE, alias_moved, service, told, two_versions, wait_for, watchful_service
from servers import wait_until
from versions import graph_path, model_path, registered, registered_otherwise, tamper

from deployment import service as module
from wine_quality.ports import free_port
from wine_quality.schema import FEATURES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory, few_wines):
    with two_versions(tmp_path_factory.mktemp("swapped"), few_wines) as config:
        yield config


@pytest.fixture(scope="module")
def url(config):
    with watchful_service(config) as url:
        yield url


@pytest.fixture
def move(config, url):
    """A function that gives the alias to a version; after the test it is the first one's again."""
    with alias_moved(config, url) as move:
        yield move


def post(url, body):
    return requests.post(f"{url}/predict", json=body, timeout=30)


def test_a_moved_alias_is_followed_under_load_without_a_failed_request(url, move):
    over, answered = Event(), []

    def ask(body):
        with requests.Session() as session:
            while not over.is_set():
                answer = session.post(f"{url}/predict", json=body, timeout=30)
                answered.append((answer.status_code, answer.json().get("version")))

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask, body) for body in (WINE, WINE, [WINE] * 200)]
        try:
            for version in ("2", "1", "2"):
                move(version)
                wait_for(url, version)
        finally:
            over.set()
    assert [future.exception() for future in asking] == [None, None, None]
    assert set(answered) == {(200, "1"), (200, "2")}


def test_without_a_champion_the_service_is_red_and_without_a_new_one_it_is_amber(url, config, move):
    MlflowClient().delete_registered_model_alias("wine-quality", "champion")
    assert serves_on(url, "no version has the alias champion.")
    with service(config.model_copy(update={"serve_port": free_port()})) as without:
        ready = requests.get(f"{without}/health/ready", timeout=30)
        assert (ready.status_code, ready.json()["status"]) == (503, "red")
        for answer in (post(without, WINE), requests.get(f"{without}/model", timeout=30)):
            assert answer.status_code == 503
            assert answer.json()["error"].startswith("no model is loaded: no version has the alias champion.")
        assert told(f"{without}/health") == {"status": "live"}
        move("2")
        wait_for(without, "2")


@pytest.mark.parametrize(
    ("reason", "without"),
    [
        ("/home/me/mlflow.db: cannot be read", "mlflow.db: cannot be read"),
        ("No such file: '/home/me/1/model.onnx'.", "No such file: 'model.onnx'."),
        ("sqlite:////home/me/mlflow.db is locked", "mlflow.db is locked"),
        ("version 3 and/or 4. Run `make run`.", "version 3 and/or 4. Run `make run`."),
    ],
)
def test_folders_of_the_machine_are_not_told(reason, without):
    assert module.FOLDERS.sub("", reason) == without


def serves_on(url, why):
    """Say whether the first version still answers, and `/health/ready` is amber and tells why."""
    ready = f"{url}/health/ready"
    wait_until(lambda: why in told(ready).get("reason", ""), why)
    assert told(ready)["status"] == "amber"
    assert not re.search(r"/tmp|/home|site-packages", told(ready)["reason"])
    answer = post(url, WINE)
    return (answer.status_code, answer.json()["version"]) == (200, "1")


@pytest.mark.parametrize("path_of", [model_path, graph_path])
def test_a_file_of_a_model_that_was_tampered_with_is_refused_and_the_old_one_serves_on(url, config, move, path_of):
    new = registered(config, "extra_trees", n_estimators=5)
    tamper(path_of(new))
    move(new.version)
    assert serves_on(url, f"{path_of(new).name} is not the file that was noted (its sha256 sum differs)")


def test_a_version_of_another_signature_is_refused_and_the_old_one_serves_on(url, config, move):
    alcohol = registered_otherwise(config, ["alcohol"], "float64")
    move(alcohol.version)
    assert serves_on(url, f"version {alcohol.version} cannot be used: it takes other columns than those of wine")
    whole = registered_otherwise(config, FEATURES, "float32")
    move(whole.version)
    assert serves_on(url, f"version {whole.version} has another signature than version 1")


def test_a_version_without_files_is_refused_and_the_old_one_serves_on(url, config, move):
    new = registered(config, "linear")
    model_path(new).unlink()
    move(new.version)
    assert serves_on(url, f"wine-quality version {new.version} cannot be used: model.skops is missing")


def test_a_store_that_is_taken_away_is_told_and_the_old_version_serves_on(url, config, move):
    store = config.home / "mlflow.db"
    store.rename(aside := store.with_suffix(".aside"))

    def told_without_one() -> bool:
        store.unlink(missing_ok=True)  # MLflow makes one anew where a look was under way
        return "there is no MLflow store" in told(f"{url}/health/ready").get("reason", "")

    try:
        wait_until(told_without_one, "no store")
        assert serves_on(url, "there is no MLflow store")
    finally:
        aside.replace(store)
