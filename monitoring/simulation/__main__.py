"""Simulate a year of monitoring in minutes: the champion was trained on red wine, and white wine begins to arrive.

The simulation has its own home, `.local/simulation/`. You can stop it at any time, and it resumes when you start it
again. Run it with `python -m monitoring.simulation` or `make simulate`; `--short` simulates six weeks instead of 52.
"""

import argparse
import os
import sys
from pathlib import Path

from monitoring.simulation.servers import create_home, simulation_servers
from wine_quality.command import exit_code
from wine_quality.config import ROOT, settings
from wine_quality.errors import WineError
from wine_quality.files import exclusive_lock, is_locked
from wine_quality.processes import module, run_to_end

FOREIGN = ("AWS_", "MLFLOW_TRACKING_URI", "PREFECT_", "WINE_PREDICTIONS")  # keeps your own store and bucket out


def run(home: Path, scenario: str) -> int:
    """Start the servers, run the simulation in its own process, and return its exit code."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    lock = home / "simulation.lock"
    if is_locked(lock):
        raise WineError(f"{home}: a simulation is already running here. Wait until it ends, or stop it.")
    print("start     the simulation's servers take about 20 seconds to start", flush=True)
    with exclusive_lock(lock), simulation_servers(home) as own:
        return run_to_end(module("monitoring.simulation.run", scenario), own)


def main() -> int:
    """Run the simulation, and print where its results are."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.simulation", description="Simulate a year in minutes.")
    parser.add_argument("--short", action="store_true", help="six weeks instead of 52")
    scenario = "short" if parser.parse_args().short else "year"
    config = settings()
    home = config.local / "simulation"
    create_home(home, scenario, config)
    if (home / "summary.json").exists():
        print(f"done      this simulation is already complete; to start again, delete {home}")
    elif code := run(home, scenario):
        return code
    print(f"report    {config.home / 'monitoring' / 'report.html'}")
    print(f"browse    WINE_HOME={os.path.relpath(home, ROOT)} make up")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
