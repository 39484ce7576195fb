"""What a run leaves for people to see: the report on the screen, and artifacts in Prefect and MLflow."""

import base64
import logging
import os
import sys
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.logging.configuration import setup_logging
from rich.console import Console
from rich.markdown import Markdown

from orchestration.prefect_server import connect
from orchestration.report import HEADINGS, REPORT, Published, Trained, links
from wine_quality.config import Settings
from wine_quality.tracking import FIGURE


def leave_artifacts(config: Settings, trained: Trained, published: Published, text: str) -> None:
    """Leave the report, the models, the figure and the link with the flow run; a new report with MLflow as well."""
    run, choice = published.run, trained.choice
    if published.staged:
        MlflowClient().log_text(run.run_id, text, REPORT)
    create_markdown_artifact(text, key="training-report", description="What the training run found and made")
    models = trained.leaderboard.rename(columns=HEADINGS).round(3)
    create_table_artifact(
        [{"model": name, **row} for name, row in models.to_dict("index").items()],
        key="models",
        description="Cross-validated scores on the training side, the best first",
    )
    create_image_artifact(
        figure_address(run.run_id),
        key="predicted-against-actual",
        description=f"What {choice.name} predicts for the gate set, against what the tasters said",
    )
    page = links(run, published.version, config, None)["the run"]
    create_link_artifact(page, f"{choice.name} in MLflow", key="mlflow-run", description="Needs `make up`")


def figure_address(run_id: str) -> str:
    """Return the figure of a run as an address that holds the picture itself, so that no server need answer for it."""
    path = Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{FIGURE}"))
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def print_report(text: str) -> None:
    """Show the report on the screen, or as 120 columns in a log."""
    console = Console()
    Console(width=None if console.is_terminal else 120).print(Markdown(text))


def only_own_lines() -> None:
    """Make the screen that of a command that runs a flow: its own lines, none of Prefect's."""
    quiet()
    logging.getLogger("wine_quality").addHandler(logging.StreamHandler(sys.stdout))


def quiet() -> None:
    """Connect a command to Prefect, and keep Prefect's own lines off the screen; they go to its server all the same."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    setup_logging()
    connect()
