"""The servers of a simulation, and its own home, which keeps it away from your runs, versions and predictions."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values, set_key

from wine_quality import sources
from wine_quality.config import Settings
from wine_quality.errors import DataError
from wine_quality.files import atomic_write, translate_disk_errors
from wine_quality.ports import free_port
from wine_quality.processes import companion, module, server
from wine_quality.sources import table_checksum

PORTS = ("PREFECT", "MLFLOW", "S3", "SERVE")
# your own settings must not change or stop a simulation
FIXED = {"WINE_SHADOW": "on", "WINE_APPROVAL": "automatic", "WINE_SLICE": "", "WINE_MINIMUM_GAIN": "0.004"}


def create_home(home: Path, scenario: str, config: Settings) -> None:
    """Write a simulation's data and settings to its home; raise `DataError` if it holds a different simulation."""
    table = sources.load_dataset(config).table
    about = {"scenario": scenario, "seed": config.seed, "data": table_checksum(table)}
    path = home / "simulation.json"
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != about:
            raise DataError(f"{home}: holds a simulation with different data, length or seed. Delete it first.")
        return
    sources.write_table(table, home / "wine")
    ports = {f"WINE_{name}_PORT": str(free_port()) for name in PORTS}  # free now, and reserved in its settings
    own = {"WINE_DATA": str(home / "wine"), "WINE_SEED": str(config.seed), **FIXED, **ports}
    with atomic_write(home / ".env") as part:
        for name, value in own.items():
            set_key(part, name, value)  # a path may contain quotes and #
    with atomic_write(path) as part:
        part.write_text(json.dumps(about))


def environment(home: Path) -> dict[str, str]:
    """Return the environment variables that a simulation's processes need."""
    own = {name: value or "" for name, value in dotenv_values(home / ".env").items()}
    prefect = f"http://127.0.0.1:{own['WINE_PREFECT_PORT']}/api"
    return {"WINE_HOME": str(home), **own, "PREFECT_HOME": str(home / ".local" / "prefect"), "PREFECT_API_URL": prefect}


@contextmanager
def simulation_servers(home: Path) -> Iterator[dict[str, str]]:
    """Run the servers of `make up` and the service; yield the environment variables of the simulation's processes."""
    own, logs = environment(home), home / ".local"
    with translate_disk_errors(logs):
        logs.mkdir(parents=True, exist_ok=True)
    # the service starts once MLflow is up, because two processes that create MLflow's database at once break it
    ports = [int(own[f"WINE_{name}_PORT"]) for name in ("MLFLOW", "PREFECT")]
    with (
        server(module("orchestration.up"), ports, logs / "up.log", own),
        companion(module("deployment.serve"), logs / "serve.log", own),  # it responds once there is a champion
    ):
        yield own
