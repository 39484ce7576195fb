"""One settings object: paths, addresses, names and the seed.

Set a field by an environment variable with the prefix `WINE_` (`WINE_DATA`, `WINE_SEED`), or by a line of that name
in the file `.env` in the project's root. The environment takes precedence over the file.
"""

import os
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import load_dotenv
from pydantic import AfterValidator, ByteSize, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from wine_quality.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent


def usable_home(path: Path) -> Path:
    """Resolve a folder against the project's root, or reject one that can't be part of a database address."""
    home = ROOT / path
    if "?" in str(home.resolve()):  # where SQLAlchemy, and so MLflow and Prefect, ends the path of a SQLite file
        raise ValueError("a path with a ? cannot be used, because it would cut off the address of a database")
    return home


class Settings(BaseSettings):
    """The settings of one run.

    A run writes all its files under `home`; a relative path starts at the project's root, so notebooks and commands
    use the same folder. `minimum_gain` is the number of RMSE points by which a challenger must beat the champion; 19 of
    20 changes of the seed alone gain less than the default (`benchmarks/gate.py`). `trials` is the number of trials in
    the search of notebook 5. `slice` names a measurement: errors are then reported for each third of its values, as
    well as by colour and quality. With `shadow`, the challenger also scores the requests that the service answered.
    With `approval` set to `manual`, a person must approve each promotion within `approval_seconds`. `keep_runs` is the
    number of training runs whose files are stored. `predictions` is the address of the predictions database, and
    `webhook` is where alerts are sent; both may contain a secret, so they print as asterisks.

    `workers` is the number of processes that search and score in parallel. `dask` is the address of a cluster that
    replaces them, `tls://…` with the certificates in `dask_tls`. `window` is the number of trials of a search that may
    run at once, whatever the number of workers. `memory` is how much `train-at-scale` may use, such as `6GB`, and each
    Dask worker of `make cluster`.
    """

    model_config = SettingsConfigDict(env_prefix="WINE_", env_ignore_empty=True, frozen=True, extra="ignore")

    home: Annotated[Path, AfterValidator(usable_home)] = Field(default=ROOT, validate_default=True)
    data: str = "auto"
    seed: int = Field(default=42, ge=0, le=2**32 - 1)
    minimum_gain: float = Field(default=0.004, ge=0, allow_inf_nan=False)
    trials: int = Field(default=50, ge=1, le=500)
    slice: str = ""
    shadow: bool = True
    approval: Literal["automatic", "manual"] = "automatic"
    approval_seconds: int = Field(default=86_400, ge=1, le=30 * 86_400)

    workers: int = Field(default=1, ge=1, le=1024)
    window: int = Field(default=1, ge=1, le=100)
    dask: str = ""
    dask_tls: Annotated[Path, AfterValidator(lambda path: ROOT / path)] = Field(
        default=Path(".local/cluster/tls"), validate_default=True
    )
    memory: ByteSize = Field(default=ByteSize(2_000_000_000), ge=700_000_000)

    tracking_uri: str = Field(default="", validation_alias="MLFLOW_TRACKING_URI")
    uci_url: str = "https://archive.ics.uci.edu/static/public/186/wine+quality.zip"
    experiment: str = "wine-quality-experiment"
    registered_model: str = "wine-quality"
    bucket: str = "wine-quality"
    predictions: SecretStr = SecretStr("")
    webhook: SecretStr = SecretStr("")
    keep_runs: int = Field(default=30, ge=1, le=100_000)  # a month of nightly runs, 4 to 5 GB at most

    prefect_port: int = Field(default=4200, ge=1, le=65535)
    mlflow_port: int = Field(default=5500, ge=1, le=65535)
    s3_port: int = Field(default=9000, ge=1, le=65535)
    serve_port: int = Field(default=8000, ge=1, le=65535)

    @property
    def raw_data(self) -> Path:
        """Downloads, one folder per source."""
        return self.home / "wine_data" / "raw"

    @property
    def models(self) -> Path:
        """Trained models, saved as files."""
        return self.home / "models"

    @property
    def mlruns(self) -> Path:
        """Artifacts of MLflow runs, if MLflow doesn't run on another server."""
        return self.home / "mlruns"

    @property
    def images(self) -> Path:
        """The figures that notebooks save for the READMEs."""
        return self.home / "images"

    @property
    def local(self) -> Path:
        """State that you shouldn't edit: Prefect's home and the local bucket."""
        return self.home / ".local"

    @property
    def outbox(self) -> Path:
        """Runs that are waiting to be pushed to the bucket."""
        return self.local / "outbox"

    @property
    def prediction_queue(self) -> Path:
        """Predictions that are waiting to be written to their database."""
        return self.local / "predictions"

    @property
    def reports(self) -> Path:
        """The records of the monitoring runs."""
        return self.home / "monitoring" / "reports"

    @property
    def mlflow_uri(self) -> str:
        """The tracking store: `MLFLOW_TRACKING_URI`, else SQLite in `home`."""
        return self.tracking_uri or f"sqlite:///{self.home.resolve()}/mlflow.db"

    @property
    def predictions_uri(self) -> str:
        """The database of predictions: `WINE_PREDICTIONS`, else SQLite in `home`."""
        return self.predictions.get_secret_value() or f"sqlite:///{self.home.resolve()}/predictions.db"


def settings(**overrides: Any) -> Settings:
    """Return the current settings from the environment and `.env`; overrides that aren't None take precedence.

    Raise `SettingsError` if a variable has an invalid value, or `.env` cannot be read.
    """
    overrides = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(_env_file=env_file(), **overrides)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        wrong = "; ".join(
            f"WINE_{str(e['loc'][0]).upper()}={reprlib.repr(e['input'])}: {e['msg']}" for e in error.errors()
        )
        raise SettingsError(f"{wrong}. Fix it in the environment or in .env.") from None


def load_env_file() -> None:
    """Load `.env` into the environment, where AWS, Prefect and MLflow look for their variables."""
    load_dotenv(env_file())


def env_file() -> Path:
    """Return the path of `.env`, or raise `SettingsError` if it cannot be read."""
    path = ROOT / os.environ.get("WINE_HOME", "") / ".env"
    try:
        if path.is_file() and "\0" in path.read_text():
            raise ValueError("a zero byte")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read ({error}). Fix it or delete it.") from None
    return path
