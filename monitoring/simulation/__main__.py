"""Simulate a year in minutes: a champion that was trained on red wine, white wine that comes in, and the loop.

The simulation has a home of its own, `.local/simulation/`. If you stop it, it goes on where it was when you start it
again. Run it with `python -m monitoring.simulation`, or `make simulate`; `--short` simulates six weeks instead of 52.
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

FOREIGN = ("AWS_", "MLFLOW_TRACKING_URI", "PREFECT_", "WINE_PREDICTIONS")  # your own store and bucket are left alone


def run(home: Path, scenario: str) -> int:
    """Start the servers, run the simulation in a process of its own, and return its exit code."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    lock = home / "simulation.lock"
    if is_locked(lock):
        raise WineError(f"{home}: a simulation is running here. Wait for it, or stop it.")
    print("start     the servers of the simulation take some 20 seconds to start", flush=True)
    with exclusive_lock(lock), simulation_servers(home) as own:
        return run_to_end(module("monitoring.simulation.run", scenario), own)


def main() -> int:
    """Run the simulation, and print where to look."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.simulation", description="Simulate a year in minutes.")
    parser.add_argument("--short", action="store_true", help="six weeks instead of 52")
    scenario = "short" if parser.parse_args().short else "year"
    config = settings()
    home = config.local / "simulation"
    create_home(home, scenario, config)
    if (home / "summary.json").exists():
        print(f"done      this simulation is complete; to start again, delete {home}")
    elif code := run(home, scenario):
        return code
    print(f"report    {config.home / 'monitoring' / 'report.html'}")
    print(f"browse    WINE_HOME={os.path.relpath(home, ROOT)} make up")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
