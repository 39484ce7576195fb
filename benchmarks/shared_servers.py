"""Measure the shared servers with 1,000 runs: `python -m benchmarks.shared_servers`. It takes about ten minutes.

The servers are the MLflow and the Prefect server of `make cluster`, on SQLite and on PostgreSQL. Clients create the
runs: 15 parameters, 12 metrics and 4 tags per MLflow run; 20 log lines and no task runs per Prefect run. Then the calls
that the web pages make are timed, and the size of the databases is measured.
"""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
from honcho.environ import parse_procfile
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import LogCreate
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Completed

from benchmarks.machine import spread, write_results
from scaling import database
from scaling.cluster import PROCFILE, Cluster, Process
from wine_quality.config import Settings, settings
from wine_quality.ports import free_port

RUNS, AT_ONCE, REPEATS, LINES = 1000, 4, 10, 20


class OnSqlite(Cluster):
    """The same servers, each with an SQLite file."""

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment that a process needs, with SQLite files as databases."""
        own = super().environment(name)
        files = {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.folder}/mlflow.db",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.folder}/prefect.db",
        }
        return own | {variable: url for variable, url in files.items() if variable in own}


def create_mlflow_runs(experiment: str) -> None:
    client, now = MlflowClient(), int(1000 * time.time())

    def create(number: int) -> None:
        tags = {f"tag_{one}": "0123456789abcdef" * 4 for one in range(4)}
        run_id = client.create_run(experiment, run_name=f"run-{number}", tags=tags).info.run_id
        params = [Param(f"parameter_{one}", str(number * one)) for one in range(15)]
        metrics = [Metric(f"metric_{one}", number / (one + 1), now, 0) for one in range(12)]
        client.log_batch(run_id, metrics, params)
        client.set_terminated(run_id)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(create, range(RUNS)))


def create_flow_runs() -> None:
    @flow(name="a flow")
    def a_flow(number: int) -> None:
        """Do nothing."""

    with get_client(sync_client=True) as client:
        client.create_flow(a_flow)

        def create(number: int) -> None:
            run = client.create_flow_run(a_flow, parameters={"number": number}, name=f"run-{number}", state=Completed())
            now = datetime.now(UTC)
            line = {"name": "wine_quality", "level": 20, "timestamp": now, "flow_run_id": run.id}
            client.create_logs([LogCreate(message=f"line {one} of a run, {'.' * 60}", **line) for one in range(LINES)])

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(create, range(RUNS)))


def timed(call: Callable[[], httpx.Response]) -> dict[str, float]:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call().raise_for_status()
        seconds.append(time.perf_counter() - began)
    return spread(seconds, 3)


def pages(cluster: Cluster, experiment: str) -> dict[str, Any]:
    """Time the requests of the lists of runs: the newest 100 or 200, sorted by a metric, by name, and counted."""
    mlflow = httpx.Client(base_url=cluster.url["mlflow"], auth=cluster.account("mlflow"), timeout=60)
    prefect = httpx.Client(base_url=f"{cluster.url['prefect']}/api", auth=cluster.account("prefect"), timeout=60)
    search, by = "/api/2.0/mlflow/runs/search", {"experiment_ids": [experiment], "max_results": 100}
    named = {"flow_runs": {"name": {"like_": "run-77"}}}
    return {
        "mlflow_runs_newest_100": timed(lambda: mlflow.post(search, json=by)),
        "mlflow_runs_all_1000": timed(lambda: mlflow.post(search, json=by | {"max_results": 1000})),
        "mlflow_runs_by_metric": timed(lambda: mlflow.post(search, json=by | {"order_by": ["metrics.metric_3 DESC"]})),
        "mlflow_runs_filtered": timed(lambda: mlflow.post(search, json=by | {"filter": "metrics.metric_3 > 100"})),
        "prefect_runs_newest_200": timed(
            lambda: prefect.post("/flow_runs/filter", json={"limit": 200, "sort": "START_TIME_DESC"})
        ),
        "prefect_runs_by_name": timed(lambda: prefect.post("/flow_runs/filter", json={"limit": 200, **named})),
        "prefect_count": timed(lambda: prefect.post("/flow_runs/count", json={})),
        "prefect_logs_100": timed(lambda: prefect.post("/logs/filter", json={"limit": 100})),
    }


def sizes(cluster: Cluster) -> dict[str, float]:
    """Return the size of each database in MB."""
    if isinstance(cluster, OnSqlite):
        files = {name: cluster.folder.glob(f"{name}.db*") for name in ("mlflow", "prefect")}
        found = {name: sum(path.stat().st_size for path in paths) for name, paths in files.items()}
    else:
        with psycopg.connect(cluster.admin, autocommit=True) as server:
            row = server.execute("SELECT pg_database_size('mlflow'), pg_database_size('prefect')").fetchone()
            found = dict(zip(("mlflow", "prefect"), row or (), strict=True))
    return {name: round(size / 1e6, 1) for name, size in found.items()}


def measure(kind: type[Cluster], config: Settings, folder: Path) -> dict[str, Any]:
    cluster, commands = kind(config, folder), dict(parse_procfile(PROCFILE.read_text()).processes)
    with ExitStack() as servers:
        if kind is Cluster:
            database.create_cluster(folder / "postgres", cluster.secret("postgres"))
            servers.enter_context(Process(cluster, "postgres", commands["postgres"]))
            for tool, extensions in {"mlflow": [], "prefect": ["pg_trgm"]}.items():
                database.create_database(cluster.admin, tool, cluster.secret(tool), *extensions)
        for name in ("mlflow", "prefect"):
            servers.enter_context(Process(cluster, name, commands[name]))
        os.environ.update(cluster.client())
        own: dict[Any, str] = {PREFECT_API_URL: cluster.client()["PREFECT_API_URL"]}
        own |= {PREFECT_API_AUTH_STRING: cluster.client()["PREFECT_API_AUTH_STRING"]}
        empty, began = sizes(cluster), time.perf_counter()
        experiment = MlflowClient(cluster.url["mlflow"]).create_experiment("many")
        create_mlflow_runs(experiment)
        halfway = time.perf_counter()
        with temporary_settings(own):
            create_flow_runs()
        created = {"mlflow": round(halfway - began, 1), "prefect": round(time.perf_counter() - halfway, 1)}
        return {
            "mb_empty": empty,
            "seconds_to_create": created,
            "seconds": pages(cluster, experiment),
            "mb": sizes(cluster),
        }


def main() -> None:
    results = {}
    for kind in (OnSqlite, Cluster):
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o711)  # PostgreSQL's user must reach its data
            ports = {f"{server}_port": free_port() for server in ("prefect", "mlflow", "s3")}
            results[kind.__name__] = measure(kind, settings(**ports), Path(name))
    write_results(
        "shared_servers",
        {"runs": RUNS, "log_lines": LINES, "sqlite": results["OnSqlite"], "postgresql": results["Cluster"]},
    )


if __name__ == "__main__":
    main()
