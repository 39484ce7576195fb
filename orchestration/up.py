"""Start the servers in one terminal: Prefect, a worker for its work pool, MLflow and S3. Ctrl-C stops them all.

What runs is in the `Procfile` beside this file; on which ports is in the settings. All of it listens on loopback. With
`--wait` this module waits until they listen and prints their addresses, because the worker needs Prefect.
"""

import os
import sys
import time
from pathlib import Path

from honcho.environ import parse_procfile
from honcho.manager import Manager

from orchestration.startup import UP_LOCK, prepare_home
from wine_quality.command import exit_code
from wine_quality.config import ROOT, Settings, settings
from wine_quality.environment import prefect_at
from wine_quality.errors import DeploymentError, SettingsError
from wine_quality.files import exclusive_lock
from wine_quality.local_s3 import local_keys, s3_environment
from wine_quality.ports import listens
from wine_quality.processes import START_SECONDS

PROCFILE = Path(__file__).with_name("Procfile")
WAIT = "--wait"
INTERRUPTED = 130
QUIET = {"PYTHONWARNINGS": "ignore:starlette.middleware.wsgi is deprecated"}  # from MLflow itself


def ports(config: Settings) -> dict[str, int]:
    """Return the port of each server by its name."""
    return {"Prefect": config.prefect_port, "MLflow": config.mlflow_port, "S3": config.s3_port}


def environment(config: Settings) -> dict[str, str]:
    """Return the environment that all the servers share."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        **prefect_at(config.prefect_port),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "WINE_CHECKOUT": str(ROOT),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "WINE_MLFLOW_PORT": str(config.mlflow_port),
        "WINE_S3_PORT": str(config.s3_port),
        "MLFLOW_BACKEND_STORE_URI": config.mlflow_uri,  # not on the command line, which every user can read
        "ARTIFACTS": config.mlruns.resolve().as_uri(),  # MLflow decodes %20 in a plain path
        "S3_FOLDER": str(config.local / "s3"),
    }


def assert_free(config: Settings) -> None:
    """Raise a `SettingsError` that names each port that is already in use."""
    taken = [
        f"port {port} for {name} is in use (WINE_{name.upper()}_PORT)"
        for name, port in ports(config).items()
        if listens(port)
    ]
    if taken:
        raise SettingsError(f"{'; '.join(taken)}. Stop what uses it (another make up?) or change the port in .env.")


def start_all() -> int:
    """Run the Procfile until it is interrupted or a server stops, and return its exit code."""
    config = prepare_home()
    assert_free(config)
    own = {"mlflow": QUIET, "s3": s3_environment(*local_keys(config))}
    (config.local / "s3" / config.bucket).mkdir(parents=True, exist_ok=True)
    servers = Manager()
    for name, command in parse_procfile(PROCFILE.read_text()).processes.items():
        servers.add_process(name, command, env={**environment(config), **own.get(name, {})})
    with exclusive_lock(config.local / UP_LOCK):
        servers.loop()
    return 0 if servers.returncode == INTERRUPTED else servers.returncode or 0


def wait() -> None:
    """Wait until the servers listen, and print a line for each."""
    waiting, deadline = ports(settings()), time.monotonic() + START_SECONDS
    while waiting:
        if time.monotonic() > deadline:
            raise DeploymentError(f"{', '.join(waiting)} did not start within {START_SECONDS} s.")
        for name, port in list(waiting.items()):
            if listens(port):
                print(f"{name} is at http://127.0.0.1:{waiting.pop(name)}", flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(exit_code(wait if WAIT in sys.argv else start_all))
