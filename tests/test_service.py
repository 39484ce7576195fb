"""The service: its responses, and how it follows the alias, or keeps serving and reports why it can't."""

import json
import re
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import jsonschema
import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families
from readmes import blocks
from served import SAMPLE, alias_moved, fast_polling_service, get_json, service, two_versions, wait_for
from servers import running, wait_until
from versions import artifacts, few_sides, graph_path, register_model, tamper

from deployment import service as module
from deployment.serve import serve
from wine_quality import disk_queue, predictions
from wine_quality.config import ROOT
from wine_quality.errors import SettingsError
from wine_quality.models import predict
from wine_quality.ports import free_port, listens
from wine_quality.schema import FEATURES, MEASUREMENTS
from wine_quality.tracking import ROWS_FILE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory, few_wines):
    with two_versions(tmp_path_factory.mktemp("served"), few_wines) as config:
        yield config


@pytest.fixture(scope="module")
def url(config):
    with fast_polling_service(config) as url:
        yield url


@pytest.fixture
def move(config, url):
    with alias_moved(config, url) as move:
        yield move


def post(url, body, path="/predict"):
    return requests.post(url + path, json=body, timeout=30)


def get(url):
    return requests.get(url, timeout=30)


def test_the_requests_of_the_readme_get_the_responses_shown_there(url):
    texts = [block.text for block in blocks(ROOT / "deployment" / "README.md") if "{" in block.text]
    request, response, error = (json.loads(re.search("{.*}", text, re.DOTALL)[0]) for text in texts)
    assert post(url, request).json().keys() == response.keys()
    invalid = post(url, request | {"alcohol": 88})
    assert (invalid.status_code, invalid.json()) == (422, error)


def test_samples_in_a_list_get_the_scores_they_get_alone_in_the_same_order(url):
    samples = [SAMPLE, {**SAMPLE, "alcohol": 12}, {**SAMPLE, "type": "red"}]
    answer = post(url, samples).json()
    assert answer.keys() == {"predictions", "version", "stored"}
    scores = [one["score"] for one in answer["predictions"]]
    assert scores == [post(url, sample).json()["score"] for sample in samples]
    assert len(set(scores)) == len({one["id"] for one in answer["predictions"]}) == 3
    assert post(url, [SAMPLE]).json()["predictions"][0]["score"] == scores[0]


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_null_is_imputed_as_in_training(url, move, version):
    move(version)
    wait_for(url, version)
    blank = {**SAMPLE, **dict.fromkeys(MEASUREMENTS)}
    pipeline = mlflow.sklearn.load_model(f"models:/wine-quality/{version}")
    assert post(url, blank).json()["score"] == pytest.approx(predict(pipeline, pd.DataFrame([blank]))[0], abs=1e-4)


@pytest.mark.parametrize(
    ("sample", "line"),
    [
        ({name: SAMPLE[name] for name in FEATURES if name != "pH"}, "pH: missing. Send 2 to 5 pH, or null"),
        ({**SAMPLE, "ph": 3}, '"ph": unknown field'),
        ([], "the list is empty"),
    ],
)
def test_a_missing_or_misspelt_field_is_named_and_not_treated_as_null(url, sample, line):
    answer = post(url, sample)
    assert (answer.status_code, answer.json()["error"]) == (422, line)


@pytest.mark.parametrize("field", MEASUREMENTS)
def test_the_allowed_range_of_a_measurement_is_that_of_the_schema(url, field):
    what = MEASUREMENTS[field]
    assert post(url, [{**SAMPLE, field: what.low}, {**SAMPLE, field: what.high}]).status_code == 200
    answer = post(url, [SAMPLE, {**SAMPLE, field: what.low - 1}, {**SAMPLE, field: what.high + 1}])
    limits = f"{what.low:g} to {what.high:g} {what.unit}"
    assert answer.status_code == 422
    assert [line.rpartition(" is not ")[2] for line in answer.json()["problems"]] == [limits, limits]


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("alcohol", "12", 'sample 2, alcohol: "12" is not a number (5 to 25 % by volume) or null'),
        ("alcohol", True, "sample 2, alcohol: true is not a number (5 to 25 % by volume) or null"),
        ("alcohol", [12], "sample 2, alcohol: a list is not a number (5 to 25 % by volume) or null"),
        ("type", "rosé", 'sample 2, type: "rosé" is not red or white'),
        ("type", None, "sample 2, type: null is not red or white"),
    ],
)
def test_a_problem_names_the_sample_the_field_the_value_and_what_is_allowed(url, field, value, line):
    answer = post(url, [SAMPLE, {**SAMPLE, field: value}])
    assert (answer.status_code, answer.json()) == (422, {"error": line, "problems": [line]})


def test_at_most_ten_problems_are_listed_and_long_values_are_shortened(url):
    answer = post(url, [{**SAMPLE, "type": "x" * 1000}] * 30).json()
    assert len(answer["problems"]) == 10
    assert answer["problems"][9].startswith('sample 10, type: "xxx')
    assert len(answer["error"]) < 100


def test_five_thousand_samples_are_scored_and_one_more_is_not(url):
    assert len(post(url, [SAMPLE] * 5000).json()["predictions"]) == 5000
    answer = post(url, [SAMPLE] * 5001)
    line = "more than 5,000 samples in one request. Send smaller requests"
    assert (answer.status_code, answer.json()["error"]) == (413, line)


def test_model_describes_the_version_and_its_columns_with_their_ranges(url):
    model = get_json(f"{url}/model")
    assert [model[key] for key in ("name", "version", "engine")] == ["wine-quality", "1", "pipeline"]
    assert model["engine_reason"] == "no ONNX graph: it would be no faster, or there is no converter"
    assert model["run_id"] == MlflowClient().get_model_version("wine-quality", "1").run_id
    assert [column["name"] for column in model["columns"]] == FEATURES
    assert model["columns"][-1] == {"name": "alcohol", "unit": "% by volume", "low": 5, "high": 25}


def test_predictions_are_stored(url, config):
    one, many = post(url, {**SAMPLE, "pH": None}).json(), post(url, [SAMPLE, SAMPLE]).json()
    ids = {one["id"], *(each["id"] for each in many["predictions"])}
    wait_until(lambda: ids <= set(predictions.load(config.predictions_uri)["id"]), "the predictions")
    stored = predictions.load(config.predictions_uri).set_index("id").loc[one["id"]]
    assert (stored["score"], stored["version"], stored["alcohol"]) == (one["score"], "1", SAMPLE["alcohol"])
    assert (stored["low"], stored["high"]) == (one["low"], one["high"])
    assert 0 <= one["low"] < one["score"] < one["high"] <= 10
    assert np.isnan(stored["pH"])


def test_a_preview_is_scored_but_neither_stored_nor_counted_as_a_prediction(url, config):
    def stored():
        rows = predictions.load(config.predictions_uri)
        return list(rows.loc[rows["alcohol"] == sample["alcohol"], "id"])

    before, sample = series(url), {**SAMPLE, "alcohol": 11.0625}  # a value that no other test sends
    preview, real = post(url, sample, "/preview").json(), post(url, sample).json()
    scored = {name: real[name] for name in ("score", "low", "high", "quality")}
    assert preview == {**scored, "version": "1", "stored": False}
    wait_until(stored, "the real prediction")
    assert not list(config.prediction_queue.glob("*.refused"))
    assert stored() == [real["id"]]
    grown = Counter()
    for (name, labels), value in series(url).items():
        grown[name] += value - before.get((name, labels), 0)
    assert (grown["wine_rows_scored_total"], grown["wine_predictions_total"]) == (2, 1)
    assert post(url, [SAMPLE], "/preview").status_code == 422


PAGES = ("/", "/index.html", "/page.js", "/page.css", "/icon.svg", "/docs", "/openapi.json")
GET_PATHS = (*PAGES, "/model", "/metrics", "/ranges", "/health", "/health/ready")


@pytest.mark.parametrize("path", GET_PATHS)
def test_head_returns_the_headers_of_get_without_a_body(url, path):
    get, head = (requests.request(method, url + path, timeout=30) for method in ("GET", "HEAD"))
    assert (get.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":  # whose body grows from one request to the next
        assert head.headers["content-length"] == str(len(get.content))


def test_head_leaves_the_connection_usable_and_is_rejected_where_only_post_is_allowed(url):
    with requests.Session() as session:
        assert session.head(f"{url}/model", timeout=30).content == b""
        assert session.get(f"{url}/health", timeout=30).json() == {"status": "live"}
        for method in ("HEAD", "GET"):
            answer = session.request(method, f"{url}/predict", timeout=30)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_prediction_that_cannot_be_stored_is_returned_and_marked_so(url, monkeypatch):
    monkeypatch.setattr(disk_queue, "MAX_BYTES", 0)
    answer = post(url, SAMPLE)
    assert (answer.status_code, answer.json()["stored"]) == (200, False)


def series(url):
    """Return the value of each time series of `/metrics`."""
    text = get(f"{url}/metrics").text
    assert "_created" not in text
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def test_metrics_count_requests_by_route_and_status_rows_and_predictions_and_name_the_version(url):
    before = series(url)
    post(url, [SAMPLE] * 3), post(url, {**SAMPLE, "pH": 9}), get(f"{url}/no/such/path")
    post(url, [SAMPLE] * 40_000), requests.request("BREW", f"{url}/predict", timeout=30)
    large = "wine_requests_total", frozenset({"method": "POST", "path": "/predict", "status": "413"}.items())
    wait_until(lambda: series(url).get(large, 0) > before.get(large, 0), "the end of the large request")
    more = {key: value - before.get(key, 0) for key, value in series(url).items()}

    def grown(metric, **labels):
        return more[f"wine_{metric}", frozenset(labels.items())]

    assert grown("requests_total", method="POST", path="/predict", status="200") == 1
    assert grown("requests_total", method="POST", path="/predict", status="422") == 1
    assert more[large] == 1
    assert grown("requests_total", method="GET", path="other", status="404") == 1
    assert not [key for key in more if ("method", "BREW") in key[1]]
    assert grown("request_seconds_count", path="/predict") == 4
    assert abs(time.time() - series(url)["wine_start_time_seconds", frozenset()]) < 3600
    assert grown("rows_scored_total", engine="pipeline") == grown("predictions_total", stored="true") == 3
    (model,) = [dict(labels) for name, labels in series(url) if name == "wine_model_info"]
    assert (model["version"], model["engine"]) == ("1", "pipeline")


def test_requests_and_responses_match_the_openapi_description(url):
    documented = get_json(f"{url}/openapi.json")

    def check(described, value):
        schema = described["content"]["application/json"]["schema"]
        jsonschema.validate(value, {**schema, "components": documented["components"]})

    for path in ("/predict", "/preview", "/nearest"):
        operation = documented["paths"][path]["post"]
        for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
            check(operation["requestBody"], example["value"])
            check(operation["responses"]["200"], post(url, example["value"], path).json())
        check(operation["requestBody"], {**SAMPLE, "pH": None})
        with pytest.raises(jsonschema.ValidationError):
            check(operation["requestBody"], {**SAMPLE, "pH": 9})
        check(operation["responses"]["422"], post(url, 5, path).json())
    for path in ("/model", "/ranges", "/health", "/health/ready"):
        check(documented["paths"][path]["get"]["responses"]["200"], get_json(url + path))


def logged_rows():
    return pd.concat(few_sides(), ignore_index=True)


def test_the_row_nearest_to_a_logged_row_is_that_row(url):
    row = logged_rows().iloc[7]
    nearest = post(url, row[FEATURES].to_dict(), "/nearest").json()["nearest"]
    assert (len(nearest), nearest[0]["distance"]) == (5, 0)
    assert (nearest[0]["type"], nearest[0]["quality"]) == (row["type"], row["quality"])
    distances = [one["distance"] for one in nearest]
    assert distances == sorted(distances)
    changed = {**row[FEATURES].to_dict(), "alcohol": row["alcohol"] + 1}
    first = post(url, changed, "/nearest").json()["nearest"][0]
    assert first["distance"] > 0
    blank = {**changed, **dict.fromkeys(MEASUREMENTS)}
    assert post(url, blank, "/nearest").json()["nearest"][0]["differs_most"]["requested"] is None


def test_ranges_go_from_the_first_to_the_ninety_ninth_percentile(url):
    rows = logged_rows()
    spread = get_json(f"{url}/ranges")
    assert (spread["rows"], spread["synthetic"]) == (len(rows), False)
    for one in spread["ranges"]:
        low, median, high = rows[one["name"]].quantile([0.01, 0.5, 0.99])
        assert [one["low"], one["median"], one["high"]] == pytest.approx([low, median, high], abs=one["step"])
        assert 30 < (one["high"] - one["low"]) / one["step"] < 400


def test_make_serve_prints_its_address_follows_the_alias_within_ten_seconds_and_ends_on_ctrl_c(config, move, tmp_path):
    port = free_port()
    own = {"WINE_HOME": str(config.home), "WINE_DATA": config.data, "WINE_SERVE_PORT": str(port)}
    with running(["-m", "deployment.serve"], tmp_path / "log", **own) as process:
        wait_until(lambda: listens(port) or process.poll() is not None, "make serve")
        wait_for(f"http://127.0.0.1:{port}", "1")
        move("2")
        wait_for(f"http://127.0.0.1:{port}", "2")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n")
            process.send_signal(signal.SIGINT)
            assert slow.recv(12) in (b"", b"HTTP/1.1 500")
            assert process.wait(timeout=60) == 130
    first, serve, swap, *_back, stopped = (tmp_path / "log").read_text().splitlines()
    assert "champion  wine-quality version 1, loaded at startup. Engine: pipeline (no ONNX" in first
    assert "champion  wine-quality version 1 -> version 2: the alias champion moved. Engine: onnx (" in swap
    assert serve == f"serve     http://127.0.0.1:{port} (API documentation: /docs)"
    assert stopped == "stopped. Run it again when you like."


def test_a_port_in_use_is_reported(config, url):
    with pytest.raises(SettingsError, match=rf"^port {config.serve_port} is not available \(Address already in use\)"):
        serve(config)


def test_the_service_needs_no_dataset(config, tmp_path):
    with service(config.model_copy(update={"data": str(tmp_path), "serve_port": free_port()})) as url:
        wait_for(url, "1")
        assert get_json(f"{url}/ranges")["rows"] == len(logged_rows())


def test_a_curve_has_the_scores_of_the_sample_with_one_measurement_varied(url):
    sample = {**SAMPLE, "pH": None}
    answer = post(url, sample, "/curves").json()
    ranges = {one["name"]: one for one in get_json(f"{url}/ranges")["ranges"]}
    assert [one["name"] for one in answer["curves"]] == list(ranges)
    for curve in answer["curves"]:
        typical = ranges[curve["name"]]
        assert (curve["values"][0], curve["values"][-1]) == pytest.approx((typical["low"], typical["high"]))
        place = len(curve["values"]) // 2
        changed = post(url, {**sample, curve["name"]: curve["values"][place]}, "/preview").json()
        assert (curve["scores"][place], answer["version"]) == (changed["score"], changed["version"])
    assert post(url, {**SAMPLE, "alcohol": 88}, "/curves").status_code == 422


def test_a_version_without_its_rows_scores_and_says_why_it_has_nothing_to_compare(url, config, move):
    bare = register_model(config, "linear")
    (artifacts(bare) / ROWS_FILE).unlink()
    move(str(bare.version))
    wait_for(url, str(bare.version))
    answer = post(url, SAMPLE)
    assert (answer.status_code, answer.json()["low"], answer.json()["high"]) == (200, None, None), "it has no intervals"
    for answer in (post(url, SAMPLE, "/nearest"), post(url, SAMPLE, "/curves"), get(f"{url}/ranges")):
        assert (answer.status_code, "logged without its rows" in answer.json()["error"]) == (503, True)


def test_a_moved_alias_is_followed_under_load_without_a_failed_request(url, move):
    stopped, responses = Event(), []

    def send(body):
        with requests.Session() as session:
            while not stopped.is_set():
                answer = session.post(f"{url}/predict", json=body, timeout=30)
                responses.append((answer.status_code, answer.json().get("version")))

    with ThreadPoolExecutor() as pool:
        sending = [pool.submit(send, body) for body in (SAMPLE, SAMPLE, [SAMPLE] * 200)]
        try:
            for version in ("2", "1", "2"):
                move(version)
                wait_for(url, version)
        finally:
            stopped.set()
    assert [future.exception() for future in sending] == [None, None, None]
    assert set(responses) == {(200, "1"), (200, "2")}


def still_serves(url, why):
    """Return whether the first version is still serving; `/health/ready` must be amber and give the reason."""
    ready = f"{url}/health/ready"
    wait_until(lambda: why in get_json(ready).get("reason", ""), why)
    assert get_json(ready)["status"] == "amber"
    assert not re.search(r"/tmp|/home|site-packages", get_json(ready)["reason"])
    answer = post(url, SAMPLE)
    return (answer.status_code, answer.json()["version"]) == (200, "1")


def test_without_a_champion_the_service_is_red_and_without_a_new_one_it_is_amber(url, config, move):
    MlflowClient().delete_registered_model_alias("wine-quality", "champion")
    assert still_serves(url, "no version has the alias champion.")
    with service(config.model_copy(update={"serve_port": free_port()})) as without:
        ready = get(f"{without}/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "red")
        for answer in (post(without, SAMPLE), get(f"{without}/model")):
            assert answer.status_code == 503
            assert answer.json()["error"].startswith("no model is loaded: no version has the alias champion.")
        assert get_json(f"{without}/health") == {"status": "live"}
        move("2")
        wait_for(without, "2")


def test_reasons_do_not_reveal_folders_of_the_machine():
    reasons = {
        "/home/me/mlflow.db: cannot be read": "mlflow.db: cannot be read",
        "No such file: '/home/me/1/model.onnx'.": "No such file: 'model.onnx'.",
        "sqlite:////home/me/mlflow.db is locked": "mlflow.db is locked",
        "version 3 and/or 4. Run `make run`.": "version 3 and/or 4. Run `make run`.",
    }
    assert {reason: module.FOLDERS.sub("", reason) for reason in reasons} == reasons


def test_a_version_that_was_tampered_with_is_rejected_and_the_old_one_is_still_serving(url, config, move):
    new = register_model(config, "extra_trees", n_estimators=5)
    tamper(graph_path(new))
    move(new.version)
    assert still_serves(url, f"{graph_path(new).name} isn't the registered file (its SHA-256 checksum differs)")
