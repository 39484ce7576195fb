"""Measure the simulation on real data: `python -m benchmarks.simulation` with WINE_DATA set to its folder.

Three times from nothing, each in a home of its own: how long it takes, and whether the outcome is the same.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import REPEATS, spread
from benchmarks.machine import write_results
from wine_quality.config import ROOT


def simulate() -> tuple[float, dict[str, Any]]:
    """Run the simulation, and return how many seconds it took and its summary."""
    with tempfile.TemporaryDirectory() as home:
        own = {**os.environ, "WINE_HOME": home}
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "monitoring.simulation"], cwd=ROOT, env=own, check=True)
        seconds = time.perf_counter() - started
        return seconds, json.loads((Path(home) / ".local" / "simulation" / "summary.json").read_text())


def main() -> None:
    runs = [simulate() for _ in range(REPEATS)]
    summaries = [summary for _, summary in runs]
    same = all(summary == summaries[0] for summary in summaries)
    write_results(
        "simulation", {"seconds": spread([seconds for seconds, _ in runs]), "all_the_same": same, **summaries[0]}
    )


if __name__ == "__main__":
    main()
