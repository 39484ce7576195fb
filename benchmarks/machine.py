"""The size of the machine, the memory of processes, and where results are written."""

import json
import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("scikit-learn", "pandas", "numpy", "prefect", "mlflow")
REPEATS = 3


def spread(values: list[float], digits: int = 2) -> dict[str, float]:
    """Return the minimum, the median and the maximum of repeated measurements."""
    measures = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value, digits) for name, value in measures.items()} | {"repeats": len(values)}


def write_results(name: str, results: dict[str, Any]) -> None:
    """Write results, with the machine they were measured on, to `results/<name>.json`, and print them."""
    machine = {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }
    text = json.dumps({"machine": machine, **results}, indent=2, default=float) + "\n"
    (RESULTS / f"{name}.json").write_text(text)
    print(text)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    return [parent := psutil.Process(pid), *parent.children(recursive=True)]


def memory_gb(pid: int) -> float:
    """Return the memory of a process and its descendants in GB, counting shared pages once."""
    return sum(member.memory_full_info().pss for member in family(pid)) / 1e9
