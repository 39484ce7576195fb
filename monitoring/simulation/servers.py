"""Replay a year in minutes: a champion that knows red wine, white wine that creeps in, and the loop that follows it.

A home of its own, `monitoring/year/`, has the servers, runs, versions and predictions of the year, so that yours are
left alone. A year that was stopped goes on where it was. Run it with `python -m monitoring.simulation.servers`, or
`make replay`; `--short` lives through six weeks in place of 52.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dotenv import dotenv_values, set_key

from wine_quality import data
from wine_quality.config import ROOT, Settings, settings
from wine_quality.data import table_checksum
from wine_quality.errors import DataError, DeploymentError, WineError, exit_code
from wine_quality.files import disk_errors_told, is_held, one_at_a_time, whole_file
from wine_quality.ports import free_port
from wine_quality.processes import comes_up, companion, last_line, module, run_to_end

START_SECONDS = 120
FOREIGN = ("AWS_", "MLFLOW_TRACKING_URI", "PREFECT_", "WINE_PREDICTIONS")  # your own store and bucket are left alone
PORTS = ("PREFECT", "MLFLOW", "S3", "SERVE")


def prepare(home: Path, name: str, config: Settings) -> None:
    """Write the wine of the year into its home, and what kind of year it is; or see that it is the one begun there.

    Raises
    ------
    DataError
        Another year was begun there.
    """
    table = data.load_wine(config).table
    about = {"plan": name, "seed": config.seed, "wine": table_checksum(table)}
    path = home / "year.json"
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != about:
            raise DataError(f"{home}: another year was begun here, of other wine, length or seed. Take it away first.")
        return
    data.write_table(table, home / "wine")
    with whole_file(home / ".env") as part:
        for setting, value in own_settings(home, config.seed).items():
            set_key(part, setting, value)  # a path may hold quotes and #
    with whole_file(path) as part:
        part.write_text(json.dumps(about))


def own_settings(home: Path, seed: int) -> dict[str, str]:
    """Return the settings of the year: its wine, its seed, and ports that are free now and stay its own."""
    ports = {f"WINE_{name}_PORT": str(free_port()) for name in PORTS}
    return {"WINE_DATA": str(home / "wine"), "WINE_SEED": str(seed), **ports}


def environment(home: Path) -> dict[str, str]:
    """Return what the processes of the year have besides: their home, and its settings."""
    own = dotenv_values(home / ".env")
    prefect = f"http://127.0.0.1:{own['WINE_PREFECT_PORT']}/api"
    return {"WINE_HOME": str(home), **own, "PREFECT_HOME": str(home / ".local" / "prefect"), "PREFECT_API_URL": prefect}


def wait_for(server: subprocess.Popen, what: str, port: int, log: Path, seconds: float) -> None:
    """Return once a server listens at a port.

    Raises
    ------
    DeploymentError
        It did not start; the line is the last of its log.
    """
    if not comes_up(server, port, seconds):
        raise DeploymentError(f"the {what} did not start: {last_line(log)}. {log} has more.")


@contextmanager
def beside(log: Path, mlflow_port: int, prefect_port: int, environment: dict[str, str]) -> Iterator[None]:
    """Run `make up` beside this process, its lines in a log, from when it answers until the end of the block."""
    with companion(module("orchestration.up"), log, environment) as up:
        for port in (mlflow_port, prefect_port):  # MLflow first: two that make its database at once clash
            wait_for(up, "servers", port, log, START_SECONDS)
        yield


def run(home: Path, name: str) -> int:
    """Start the servers, live through the weeks, and return the exit code of that."""
    own, logs = environment(home), home / ".local"
    with disk_errors_told(logs):
        logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as servers:
        ports = (int(own[f"WINE_{server}_PORT"]) for server in ("MLFLOW", "PREFECT"))
        servers.enter_context(beside(logs / "up.log", *ports, own))
        servers.enter_context(companion(module("deployment.serve"), logs / "serve.log", own))
        return run_to_end(module("monitoring.simulation.run", name), own)


def show(config: Settings, home: Path) -> int:
    """Say where to look, and return 0."""
    print(f"page      {config.home / 'monitoring' / 'report.html'}")
    print(f"browse    WINE_HOME={os.path.relpath(home, ROOT)} make up")
    return 0


def main() -> int:
    """Replay the year, and say where to look."""
    parser = argparse.ArgumentParser(
        prog="python -m monitoring.simulation.servers", description="Replay a year in minutes."
    )
    parser.add_argument("--short", action="store_true", help="six weeks in place of 52")
    name = "six-weeks" if parser.parse_args().short else "year"
    config = settings()
    home = config.home / "monitoring" / "year"
    prepare(home, name, config)
    if (home / "summary.json").exists():
        print(f"over      this year has been lived through; to begin anew, take {home} away")
        return show(config, home)
    for variable in [variable for variable in os.environ if variable.startswith(FOREIGN)]:
        del os.environ[variable]
    lock = home / "replay.lock"
    if is_held(lock):
        raise WineError(f"{home}: a replay is at work here. Wait for it, or stop it.")
    print("start     the servers of the year take some 20 seconds to start", flush=True)
    with one_at_a_time(lock):
        code = run(home, name)
    return code or show(config, home)


if __name__ == "__main__":
    sys.exit(exit_code(main))
