"""Begin with any chapter: make what it takes for granted, where that is not there yet.

Run it with `python -m tour.start 4`, or `make start CH=4`.
"""

import subprocess
import sys

from orchestration import prepare_home
from tour import chapter_of
from wine_quality import data, registry, tracking
from wine_quality.config import Settings, settings
from wine_quality.errors import exit_code

READ = {
    1: "notebooks/README.md",
    2: "experiment_tracking/README.md",
    3: "orchestration/README.md",
    4: "deployment/README.md",
    5: "monitoring/README.md",
}
WITH_CHAMPION, WITH_DEPLOYMENTS = 3, 4  # the first chapters that take these for granted


def champion_there(config: Settings) -> bool:
    """Say whether a version is in use."""
    with tracking.store(config):
        return registry.champion(config) is not None


def run(module: str) -> int:
    """Run a command of an earlier chapter, and return its exit code."""
    print(f"start     {module}", flush=True)
    return subprocess.run([sys.executable, "-m", module]).returncode


def main() -> int:
    """Make what is missing, one thing after the other, and say what to read."""
    prepare_home()
    chapter, config = chapter_of(sys.argv[1:]), settings()
    wine = data.load_wine(config)
    print(f"wine      {len(wine.table):,} rows: {wine.why}", flush=True)
    if chapter >= WITH_CHAMPION and not champion_there(config) and (code := run("orchestration.train")):
        return code
    if chapter >= WITH_DEPLOYMENTS and (code := run("orchestration.deploy")):
        return code
    print(f"ready     for chapter {chapter}: read {READ[chapter]}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
