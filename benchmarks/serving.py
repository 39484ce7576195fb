"""Measure the service beside others, on real wine: `python -m benchmarks.serving` with WINE_DATA set. It needs wrk.

Three servers answer in turn, each with one worker: the service of chapter 4, `mlflow models serve` and a bare echo of
FastAPI, which shows what is to be had at most. All of them score with the same champion, extra trees. wrk asks for one
wine at a time; at half of the peak each of its connections waits a random time between its questions.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import requests
from fastapi import FastAPI, Request

from benchmarks.machine import REPEATS, family, memory_gb, spread, write_results
from wine_quality import registry, scoring, sources, splits, tracking
from wine_quality.config import Settings, settings
from wine_quality.models import build, fit, predict
from wine_quality.ports import free_port
from wine_quality.schema import FEATURES

SECONDS, CONNECTIONS, MANY = 8, 16, 1000
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


def make_champion(config: Settings) -> pd.DataFrame:
    """Register extra trees as the champion, and return the wines that it was not fitted on."""
    wine = sources.load_dataset(config)
    sides = train, gate_set = splits.train_gate_split(splits.distinct_rows(wine.collection))
    pipeline = fit(build("extra_trees_tuned", config.seed), train)
    with tracking.store(config) as store:
        run = tracking.log_run(store, "extra_trees_tuned", pipeline, sides, wine.source, {"model": "extra_trees_tuned"})
        version = registry.register(store, run, {})
        scoring.log_graph(store, version, gate_set)
        registry.promote(store, version)
    return gate_set


@contextmanager
def server(words: list[str], port: int, ready: str, environment: dict[str, str]) -> Iterator[int]:
    """Run a server until the block ends, and yield its process id once it is ready."""
    process = subprocess.Popen(
        [sys.executable, *words], env={**os.environ, **environment}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not answers(f"http://127.0.0.1:{port}{ready}"):
            assert process.poll() is None, words
            time.sleep(0.2)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def wrk(url: str, body: str, connections: int, pause: float = 0) -> dict[str, float]:
    """Ask a server for some seconds, and return the requests a second and the 99th percentile in milliseconds."""
    script = ASK.format(body=json.dumps(body)) + (PAUSE.format(twice=round(2 * pause)) if pause else "")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        words = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", file.name, url]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()
    return {
        "requests_per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),
        "p99_ms": float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit],
    }


def fastest(url: str, body: str) -> float:
    """Return the most requests a second, over a few numbers of connections."""
    return max(wrk(url, body, connections)["requests_per_second"] for connections in (1, 4, CONNECTIONS))


def seconds_for_many(url: str, body: str, wines: pd.DataFrame, pipeline: object) -> tuple[float, float]:
    """Return the seconds of a request with many wines, and those of the pipeline for the same wines in this process."""
    started = time.perf_counter()
    requests.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=60).raise_for_status()
    asked = time.perf_counter() - started
    started = time.perf_counter()
    predict(pipeline, wines)
    return asked, time.perf_counter() - started


def main() -> None:
    if not shutil.which("wrk"):
        sys.exit("error: wrk is needed. Install it (on Debian and Ubuntu: sudo apt install wrk).")
    with tempfile.TemporaryDirectory() as home, ExitStack() as servers:
        os.environ["WINE_HOME"] = home
        config = settings()
        gate_set = make_champion(config)
        with tracking.store(config) as store:
            pipeline = registry.load_version(store, registry.champion(store))
        ports = [free_port() for _ in range(3)]
        ours, theirs, bare = (f"http://127.0.0.1:{port}" for port in ports)
        own = {
            "WINE_SERVE_PORT": str(ports[0]),
            "MLFLOW_TRACKING_URI": config.mlflow_uri,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # mlflow calls uvicorn by its name
        }
        pid = servers.enter_context(server(["-m", "deployment.serve"], ports[0], "/health/ready", own))
        mlflow = [
            "-m",
            "mlflow",
            "models",
            "serve",
            "-m",
            "models:/wine-quality@champion",
            "--env-manager",
            "local",
            "--workers",
            "1",
        ]
        servers.enter_context(server([*mlflow, "--port", str(ports[1])], ports[1], "/ping", own))
        uvicorn = ["-m", "uvicorn", "benchmarks.serving:echo", "--log-level", "warning", "--port", str(ports[2])]
        servers.enter_context(server(uvicorn, ports[2], "/openapi.json", own))
        wine = json.loads(gate_set[FEATURES].head(1).to_json(orient="records"))[0]
        many = gate_set[FEATURES].head(MANY)
        one, records = json.dumps(wine), json.dumps({"dataframe_records": [wine]})
        wrk(f"{ours}/predict", one, CONNECTIONS)  # all is loaded then
        rounds = [
            {
                "service": fastest(f"{ours}/predict", one),
                "mlflow": fastest(f"{theirs}/invocations", records),
                "echo": fastest(f"{bare}/predict", one),
            }
            for _ in range(REPEATS)
        ]
        half = min(row["service"] for row in rounds) / 2
        pause = 1000 * CONNECTIONS / half
        calm = [wrk(f"{ours}/predict", one, CONNECTIONS, pause) for _ in range(REPEATS)]
        body = many.to_json(orient="records")
        pairs = [seconds_for_many(f"{ours}/predict", body, many, pipeline) for _ in range(10)]
        memory = memory_gb(pid)
        processes = len(family(pid))
    write_results(
        "serving",
        {
            "requests_per_second": {name: spread([row[name] for row in rounds], 0) for name in rounds[0]},
            "service_over_mlflow": spread([row["service"] / row["mlflow"] for row in rounds], 1),
            "service_over_echo": spread([row["service"] / row["echo"] for row in rounds]),
            "half_load_requests_per_second": spread([row["requests_per_second"] for row in calm], 0),
            "half_load_p99_ms": spread([row["p99_ms"] for row in calm]),
            "thousand_rows_seconds": spread([asked for asked, _ in pairs], 4),
            "thousand_rows_over_in_process": spread([asked / plain for asked, plain in pairs]),
            "memory_gb": round(memory, 2),
            "processes": processes,
        },
    )


if __name__ == "__main__":
    main()
