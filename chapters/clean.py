"""Delete generated files: runs, models, the bucket, downloads. It asks first.

Run it with `python -m chapters.clean`, or `make clean`. The environment in `.venv` stays, and so does what git tracks.
"""

import shutil
import sys
from pathlib import Path

from orchestration.startup import is_up
from wine_quality.command import exit_code
from wine_quality.config import Settings, settings
from wine_quality.errors import DeploymentError
from wine_quality.files import translate_disk_errors


def generated(config: Settings) -> list[Path]:
    """Return the files and folders that commands and notebooks created in the home."""
    home = config.home
    files = [*home.glob("mlflow.db*"), *home.glob("predictions.db*"), *config.models.glob("*.skops")]
    folders = [home / "mlruns", config.local, config.raw_data, config.reports]
    report = home / "monitoring" / "report.html"
    return [*files, *filter(has_files, folders), *([report] if report.is_file() else [])]


def has_files(folder: Path) -> bool:
    """Return whether a folder exists and contains more than lock files, which every command leaves."""
    return folder.is_dir() and any(path.suffix != ".lock" for path in folder.iterdir())


def size(path: Path) -> int:
    """Return how many bytes a file or a folder has."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def confirm(what: str) -> bool:
    """Ask for confirmation, and return whether it was given."""
    print(f"{what} Type yes to continue: ", end="", flush=True)
    if sys.stdin.readline().strip() == "yes":
        return True
    print("nothing was deleted")
    return False


def main() -> int:
    """List what there is, ask, and delete it."""
    config = settings()
    if is_up(config):
        raise DeploymentError("make up is running on what would be deleted. Stop it first (Ctrl-C).")
    if not (paths := generated(config)):
        print("clean     nothing to delete")
        return 0
    for path in paths:
        print(f"{size(path) / 1e6:8.1f} MB  {path.relative_to(config.home)}")
    if not confirm("This deletes all runs, versions and predictions."):
        return 1
    for path in paths:
        with translate_disk_errors(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print("clean     done")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
