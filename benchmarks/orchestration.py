"""Measure the cost of operating the flow on the real data: `python -m benchmarks.orchestration` with WINE_DATA set.

It starts `make up` on free ports in a separate home, deploys, and starts runs as the UI's Quick run does: two for each
seed, a fresh one, and one that reuses its cached results.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from benchmarks.machine import REPEATS, family, memory_gb, spread, write_results
from wine_quality.ports import free_port
from wine_quality.processes import companion, module, run_module, wait_until

WAIT_SECONDS = 600
SETTLE_SECONDS = 5  # MLflow answers before it has loaded completely


def api(address: str, path: str, body: dict | None = None) -> Any:
    answer = requests.post(f"{address}/api/{path}", json=body or {}, timeout=30)
    answer.raise_for_status()
    return answer.json()


def is_ready(ports: dict[str, int]) -> bool:
    """Return whether Prefect, MLflow and S3 answer, and the worker is online."""
    prefect, mlflow, s3 = (f"http://127.0.0.1:{port}" for port in ports.values())
    try:
        answers = [requests.get(url, timeout=5) for url in (f"{prefect}/api/health", f"{mlflow}/health", s3)]
        workers = api(prefect, "work_pools/wine/workers/filter")
    except requests.RequestException:
        return False
    return all(answer.status_code < 500 for answer in answers) and any(w["status"] == "ONLINE" for w in workers)


def quick_run(address: str, deployment_id: str, seed: int) -> tuple[float, float]:
    """Start a run; return the seconds until it was running, and from then until it was complete."""
    run = api(address, f"deployments/{deployment_id}/create_flow_run", {"parameters": {"seed": seed}})
    started, running = time.perf_counter(), 0.0
    while time.perf_counter() - started < WAIT_SECONDS:
        state = requests.get(f"{address}/api/flow_runs/{run['id']}", timeout=30).json()["state"]["type"]
        if state in ("RUNNING", "COMPLETED"):
            running = running or time.perf_counter()
        if state == "COMPLETED":
            return running - started, time.perf_counter() - running
        assert state not in ("FAILED", "CRASHED", "CANCELLED"), state
        time.sleep(0.1)
    raise AssertionError("the run did not end")


def measure_runs(address: str, own: dict[str, str], up: int) -> tuple[list[tuple[float, float]], float]:
    """Deploy, and return the times of runs, fresh and cached in turn, and the memory of `make up` after them."""
    servers = len(family(up))
    run_module("orchestration.deploy", **own)
    nightly = requests.get(f"{address}/api/deployments/name/train-wine-quality/nightly", timeout=30).json()["id"]
    runs = [quick_run(address, nightly, seed) for seed in range(REPEATS) for _ in ("fresh", "cached")]
    wait_until(lambda: len(family(up)) <= servers, "the end of the last run's process", WAIT_SECONDS)
    return runs, memory_gb(up)


def main() -> None:
    ready, memory, runs, memory_after = [], [], [], 0.0
    os.environ.pop("PREFECT_HOME", None)
    with tempfile.TemporaryDirectory() as home:
        ports = {name: free_port() for name in ("PREFECT", "MLFLOW", "S3")}
        own = {"WINE_HOME": home, **{f"WINE_{name}_PORT": str(port) for name, port in ports.items()}}
        for repeat in range(REPEATS):
            started = time.perf_counter()
            with companion(module("orchestration.up"), Path(home, "up.log"), own) as up:
                wait_until(lambda: is_ready(ports), "make up", WAIT_SECONDS)
                ready.append(time.perf_counter() - started)
                time.sleep(SETTLE_SECONDS)
                memory.append(memory_gb(up.pid))
                if repeat == REPEATS - 1:
                    runs, memory_after = measure_runs(f"http://127.0.0.1:{ports['PREFECT']}", own, up.pid)
    fresh, cached = ([seconds for _, seconds in part] for part in (runs[::2], runs[1::2]))
    write_results(
        "orchestration",
        {
            "up_ready_seconds": spread(ready),
            "up_memory_gb": spread(memory),
            "up_memory_gb_after_six_runs": round(memory_after, 2),
            "seconds_from_quick_run_to_running": spread([waited for waited, _ in runs]),
            "fresh_seconds": spread(fresh),
            "cached_seconds": spread(cached),
            "cached_over_fresh": spread([again / first for first, again in zip(fresh, cached, strict=True)]),
        },
    )


if __name__ == "__main__":
    main()
