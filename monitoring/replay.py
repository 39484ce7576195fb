"""Replay a year in minutes: a champion that knows red wine, white wine that creeps in, and the loop that follows it.

A home of its own, `monitoring/year/`, has the servers, runs, versions and predictions of the year, so that yours are
left alone. A year that was stopped goes on where it was. Run it with `python -m monitoring.replay`, or `make replay`;
`--short` lives through six weeks in place of 52.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from wine_quality import data
from wine_quality.config import ROOT, Settings, settings
from wine_quality.data import table_checksum
from wine_quality.errors import DataError, DeploymentError, WineError, exit_code
from wine_quality.files import disk_errors_told, is_held, one_at_a_time, whole_file
from wine_quality.ports import free_port, listens
from wine_quality.processes import companion

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
        if json.loads(path.read_text()) != about:
            raise DataError(f"{home}: another year was begun here, of other wine, length or seed. Take it away first.")
        return
    with whole_file(home / "wine" / data.OWN_TABLE) as part:
        table.to_csv(part, index=False)
    with whole_file(path) as part:
        part.write_text(json.dumps(about))


def environment(home: Path, seed: int) -> dict[str, str]:
    """Return what the processes of the year have besides: their home, its wine, and free ports."""
    ports = {f"WINE_{name}_PORT": str(free_port()) for name in PORTS}
    prefect = f"http://127.0.0.1:{ports['WINE_PREFECT_PORT']}/api"
    own = {"WINE_HOME": str(home), "WINE_DATA": str(home / "wine"), "WINE_SEED": str(seed)}
    return {**own, **ports, "PREFECT_HOME": str(home / ".local" / "prefect"), "PREFECT_API_URL": prefect}


def module(name: str) -> list[str]:
    """Return the command that runs a module."""
    return [sys.executable, "-m", name]


def wait_for(server: subprocess.Popen, port: int, log: Path) -> None:
    """Return once a server listens at a port, or say why not."""
    deadline = time.monotonic() + START_SECONDS
    while not listens(port):
        if server.poll() is not None or time.monotonic() > deadline:
            last = (log.read_text().strip().splitlines() or ["it said nothing"])[-1]
            raise DeploymentError(f"the servers of the year did not start: {last}. {log} has more.")
        time.sleep(0.1)


def run(home: Path, name: str, seed: int) -> int:
    """Start the servers, live through the weeks, and return the exit code of that."""
    own, logs = environment(home, seed), home / ".local"
    with disk_errors_told(logs):
        logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as servers:
        up = servers.enter_context(companion(module("orchestration.up"), logs / "up.log", own))
        servers.enter_context(companion(module("deployment.serve"), logs / "serve.log", own))
        wait_for(up, int(own["WINE_PREFECT_PORT"]), logs / "up.log")
        return subprocess.run([*module("monitoring.weeks"), name], env={**os.environ, **own}).returncode


def main() -> int:
    """Replay the year, and say where to look."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.replay", description="Replay a year in minutes.")
    parser.add_argument("--short", action="store_true", help="six weeks in place of 52")
    name = "six-weeks" if parser.parse_args().short else "year"
    config = settings()
    home = config.home / "monitoring" / "year"
    prepare(home, name, config)
    for variable in [variable for variable in os.environ if variable.startswith(FOREIGN)]:
        del os.environ[variable]
    lock = home / "replay.lock"
    if is_held(lock):
        raise WineError(f"{home}: a replay is at work here. Wait for it, or stop it.")
    print("start     the servers of the year take some 20 seconds to start", flush=True)
    with one_at_a_time(lock):
        code = run(home, name, config.seed)
    if code == 0:
        shown = os.path.relpath(home, ROOT)
        print(f"page      {config.home / 'monitoring' / 'report.html'}\nbrowse    WINE_HOME={shown} make up")
    return code


if __name__ == "__main__":
    sys.exit(exit_code(main))
