"""Compare the service with other servers on real data: `python -m benchmarks.serving` with WINE_DATA set; needs wrk.

Three servers are measured in turn, each with one worker: the service of chapter 4, `mlflow models serve`, and a FastAPI
endpoint that only echoes, as an upper bound. The first two score with the same champion, the blend. wrk sends one row
per request. At half of the peak load, each of its connections waits a random time between two requests. At the end, the
service is measured with and without a challenger in shadow deployment, in turn.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import requests
from fastapi import FastAPI, Request
from sklearn.pipeline import Pipeline

from benchmarks.machine import REPEATS, spread, write_results
from wine_quality import registry, scoring, shadow, sources, splits, tracking
from wine_quality.config import Settings, settings
from wine_quality.intervals import fit_half_width
from wine_quality.models import BLEND, build, fit, predict
from wine_quality.ports import free_port
from wine_quality.processes import module, server, wait_until
from wine_quality.schema import FEATURES, TARGET

SECONDS, CONNECTIONS, MANY = 8, 16, 1000
LOCAL = ("--env-manager", "local", "--workers", "1")
ASK = """wrk.method = "POST"
wrk.body = {body}
wrk.headers["Content-Type"] = "application/json"
"""
PAUSE = """
function init(args) math.randomseed(os.time()) end
function delay() return math.random(0, {twice}) end
"""

echo = FastAPI()


@echo.post("/predict")
async def echoed(request: Request) -> dict:
    return await request.json()


def register_blend(config: Settings, seed: int) -> tuple[str, pd.DataFrame, Pipeline]:
    """Register the blend with its intervals and its graph; return the version, the gate set and the pipeline."""
    dataset = sources.load_dataset(config)
    split = train, gate_set = splits.train_gate_split(splits.distinct_rows(dataset.collection))
    pipeline = fit(build(BLEND, seed), train)
    interval = fit_half_width(
        train, np.full(len(train), train[TARGET].mean()), seed
    )  # costs as much as the shipped one
    with tracking.store(config) as store:
        run = tracking.log_run(store, BLEND, pipeline, split, dataset.source, {}, interval=interval)
        version = registry.register(store, run, {})
        scoring.log_graph(store, version, gate_set)
    return version, gate_set, pipeline


def p99_in_the_shadow(config: Settings, challenger: str, url: str, body: str, pause: float) -> float:
    """Return the 99th percentile of the latency with a shadow challenger, divided by that without."""
    with tracking.store(config) as store:
        aliased = store.client.set_registered_model_alias, store.client.delete_registered_model_alias
        aliased[1](store.model_name, registry.CHALLENGER)
        time.sleep(5)  # until the shadow has unloaded it
        alone = wrk(url, body, CONNECTIONS, pause)[1]
        before = shadow.count(config.predictions_uri, challenger)
        aliased[0](store.model_name, registry.CHALLENGER, challenger)
        wait_until(lambda: shadow.count(config.predictions_uri, challenger) > before, "the shadow", 60)
        return wrk(url, body, CONNECTIONS, pause)[1] / alone


def is_ok(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def wrk(url: str, body: str, connections: int, pause: float = 0) -> tuple[float, float]:
    """Load a server for some seconds; return requests per second and the 99th percentile in milliseconds."""
    script = ASK.format(body=json.dumps(body)) + (PAUSE.format(twice=round(2 * pause)) if pause else "")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        options = ["--timeout", "20s", "--latency", "-s", file.name]  # MLflow's server may take seconds
        words = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", *options, url]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    (value, unit), (rate,) = re.findall(r"99%\s+([\d.]+)(us|ms|s)", said)[0], re.findall(r"Requests/sec:\s+(\S+)", said)
    return float(rate), float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def fastest(url: str, body: str) -> float:
    """Return the highest requests per second over a few numbers of connections."""
    return max(wrk(url, body, connections)[0] for connections in (1, 4, CONNECTIONS))


def many_over_in_process(url: str, wines: pd.DataFrame, pipeline: Pipeline) -> float:
    """Return the time of a request with many rows, divided by that of the pipeline in this process."""
    body, started = wines[FEATURES].to_json(orient="records"), time.perf_counter()
    requests.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=60).raise_for_status()
    answered = time.perf_counter()
    predict(pipeline, wines)
    return (answered - started) / (time.perf_counter() - answered)


def main() -> None:
    if not shutil.which("wrk"):
        sys.exit("error: wrk is needed. Install it (on Debian and Ubuntu: sudo apt install wrk).")
    with tempfile.TemporaryDirectory() as home, ExitStack() as servers:
        os.environ["WINE_HOME"] = home
        config = settings()
        version, gate_set, pipeline = register_blend(config, config.seed)
        with tracking.store(config) as store:
            registry.promote(store, version)
        ports = [free_port() for _ in range(3)]
        ours, theirs, bare = (f"http://127.0.0.1:{port}" for port in ports)
        own = {
            "WINE_SERVE_PORT": str(ports[0]),
            "MLFLOW_TRACKING_URI": config.mlflow_uri,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # mlflow calls uvicorn by its name
        }
        commands = [
            module("deployment.serve"),
            module("mlflow", "models", "serve", "-m", "models:/wine-quality@champion", *LOCAL, "--port", str(ports[1])),
            module("uvicorn", "benchmarks.serving:echo", "--log-level", "warning", "--port", str(ports[2])),
        ]
        for command, port in zip(commands, ports, strict=True):
            servers.enter_context(server(command, [port], Path(home, f"{port}.log"), own))
        for url in (f"{ours}/health/ready", f"{theirs}/ping", f"{bare}/openapi.json"):
            wait_until(partial(is_ok, url), url, 300)

        wines = gate_set.head(MANY)
        wine = dict(wines[FEATURES].iloc[0])
        one, records = json.dumps(wine), json.dumps({"dataframe_records": [wine]})
        wrk(f"{ours}/predict", one, CONNECTIONS)  # so that everything is loaded
        rounds = [
            {
                "service": fastest(f"{ours}/predict", one),
                "mlflow": fastest(f"{theirs}/invocations", records),
                "echo": fastest(f"{bare}/predict", one),
            }
            for _ in range(REPEATS)
        ]
        pause = 1000 * CONNECTIONS / (min(row["service"] for row in rounds) / 2)
        calm = [
            tuple(wrk(f"{address}/predict", one, CONNECTIONS, pause)[1] for address in (ours, bare))
            for _ in range(REPEATS)
        ]
        challenger, *_ = register_blend(config, config.seed + 1)
        shadowed = [p99_in_the_shadow(config, challenger, f"{ours}/predict", one, pause) for _ in range(REPEATS)]
        ratios = [many_over_in_process(f"{ours}/predict", wines, pipeline) for _ in range(10)]
    results = {
        "requests_per_second": {name: spread([row[name] for row in rounds], 0) for name in rounds[0]},
        "service_over_mlflow": spread([row["service"] / row["mlflow"] for row in rounds], 1),
        "service_over_echo": spread([row["service"] / row["echo"] for row in rounds]),
        "half_load_p99_ms": spread([service for service, _ in calm]),
        "half_load_p99_over_echo": spread([service / echo for service, echo in calm]),
        "half_load_p99_with_shadow_over_without": spread(shadowed),
        "thousand_rows_over_in_process": spread(ratios),
    }
    write_results("serving", results)


if __name__ == "__main__":
    main()
