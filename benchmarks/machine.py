"""The size of the machine, what a process uses of it, and where results are written."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("scikit-learn", "pandas", "numpy", "prefect", "mlflow")


def machine() -> dict[str, Any]:
    """Return the cores, the memory in GB and the versions that a result belongs to."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def write_results(name: str, results: dict[str, Any]) -> None:
    """Write results with the machine's size to `results/<name>.json`, and print them."""
    text = json.dumps({"machine": machine(), **results}, indent=2, default=float) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text)
    print(text)


def family(pid: int) -> list[psutil.Process]:
    """Return a process with all that it started."""
    return [parent := psutil.Process(pid), *parent.children(recursive=True)]


def memory_gb(pid: int) -> float:
    """Return the memory of a process and all that it started in GB, a shared page counted once."""
    return sum(member.memory_full_info().pss for member in family(pid)) / 1e9
