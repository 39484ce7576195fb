"""Measure what it costs to operate the flow, on real wine: `python -m benchmarks.orchestration` with WINE_DATA set.

It starts `make up` on free ports in a home of its own, deploys, and starts runs as the UI's Quick run does: each seed
once fresh and once again, when the results of the first are kept.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

from benchmarks.machine import REPEATS, family, memory_gb, spread, write_results
from wine_quality.config import ROOT
from wine_quality.ports import free_port

WAIT_SECONDS = 600
SETTLE_SECONDS = 5  # MLflow answers before all of it is loaded


def api(address: str, path: str, question: dict | None = None) -> list | dict:
    answer = requests.post(f"{address}/api/{path}", json=question or {}, timeout=30)
    answer.raise_for_status()
    return answer.json()


def healthy(ports: dict[str, int]) -> bool:
    """Say whether Prefect, MLflow and S3 answer, and the worker is online."""
    try:
        prefect, mlflow, s3 = (f"http://127.0.0.1:{port}" for port in ports.values())
        answers = [requests.get(url, timeout=5) for url in (f"{prefect}/api/health", f"{mlflow}/health", s3)]
        workers = api(prefect, "work_pools/wine/workers/filter")
    except requests.RequestException:
        return False
    return all(answer.status_code < 500 for answer in answers) and any(w["status"] == "ONLINE" for w in workers)


def up_once(home: Path) -> tuple[subprocess.Popen, dict[str, int], float]:
    """Start `make up`, and return it, its ports, and the seconds until all of it answered."""
    ports = {name: free_port() for name in ("PREFECT", "MLFLOW", "S3")}
    own = {**os.environ, "WINE_HOME": str(home), **{f"WINE_{name}_PORT": str(port) for name, port in ports.items()}}
    own.pop("PREFECT_HOME", None)
    started = time.perf_counter()
    with (home / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "orchestration.up"],
            cwd=ROOT, env=own, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    while not healthy(ports):
        assert up.poll() is None, (home / "up.log").read_text()
        time.sleep(0.2)
    seconds = time.perf_counter() - started
    time.sleep(SETTLE_SECONDS)
    return up, ports, seconds


def stop(up: subprocess.Popen) -> None:
    os.killpg(up.pid, signal.SIGINT)
    assert up.wait(timeout=60) == 0


def quick_run(address: str, deployment_id: str, seed: int) -> tuple[float, float]:
    """Start a run, and return the seconds until it was running, and from there until it was complete."""
    run = api(address, f"deployments/{deployment_id}/create_flow_run", {"parameters": {"seed": seed}})
    started, running = time.perf_counter(), None
    while time.perf_counter() - started < WAIT_SECONDS:
        state = requests.get(f"{address}/api/flow_runs/{run['id']}", timeout=30).json()["state"]["type"]
        running = running or (time.perf_counter() if state in ("RUNNING", "COMPLETED") else None)
        if state == "COMPLETED":
            return running - started, time.perf_counter() - running
        assert state not in ("FAILED", "CRASHED", "CANCELLED"), state
        time.sleep(0.1)
    raise AssertionError("the run did not end")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        home, ready, memory = Path(name), [], []
        for repeat in range(REPEATS):
            up, ports, seconds = up_once(home)
            ready.append(seconds)
            memory.append(memory_gb(up.pid))
            servers = len(family(up.pid))
            if repeat < REPEATS - 1:
                stop(up)
        own = {**os.environ, "WINE_HOME": name, **{f"WINE_{kind}_PORT": str(port) for kind, port in ports.items()}}
        subprocess.run([sys.executable, "-m", "orchestration.deploy"], cwd=ROOT, env=own, check=True)
        address = f"http://127.0.0.1:{ports['PREFECT']}"
        nightly = requests.get(f"{address}/api/deployments/name/train-wine-quality/nightly", timeout=30).json()["id"]
        runs = [(quick_run(address, nightly, seed), quick_run(address, nightly, seed)) for seed in range(REPEATS)]
        while len(family(up.pid)) > servers:  # the process of the last run
            time.sleep(0.2)
        memory_after = memory_gb(up.pid)
        stop(up)
    write_results(
        "orchestration",
        {
            "up_ready_seconds": spread(ready),
            "up_memory_gb": spread(memory),
            "up_memory_gb_after_six_runs": round(memory_after, 2),
            "seconds_from_quick_run_to_running": spread([waited for pair in runs for waited, _ in pair]),
            "fresh_seconds": spread([fresh for (_, fresh), _ in runs]),
            "kept_seconds": spread([again for _, (_, again) in runs]),
            "kept_over_fresh": spread([again / fresh for (_, fresh), (_, again) in runs]),
        },
    )


if __name__ == "__main__":
    main()
