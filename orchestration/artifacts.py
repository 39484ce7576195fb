"""What a run shows: the report on the screen, and artifacts in Prefect and MLflow."""

import base64
import logging
import os
import sys
import tempfile

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
from wine_quality.tracking import FIGURE, Store


def create_artifacts(store: Store, config: Settings, trained: Trained, published: Published, text: str) -> None:
    """Create the flow run's artifacts: report, scores, figure, link. A new report goes to MLflow as well."""
    run, choice = published.run, trained.choice
    if published.queued:
        store.client.log_text(run.run_id, text, REPORT)
    create_markdown_artifact(text, key="training-report", description="The report of the training run")
    models = trained.leaderboard.rename(columns=HEADINGS).round(3)
    create_table_artifact(
        [{"model": name, **row} for name, row in models.to_dict("index").items()],
        key="models",
        description="Cross-validated scores on the training set, the best first",
    )
    create_image_artifact(
        figure_url(store, run.run_id),
        key="predicted-against-actual",
        description=f"What {choice.name} predicts for the gate set, against the tasters' scores",
    )
    page = links(run, published.version, config, None)["the run"]
    create_link_artifact(page, f"{choice.name} in MLflow", key="mlflow-run", description="Needs `make up`")


def figure_url(store: Store, run_id: str) -> str:
    """Return the figure of a run as a data URL, so that it shows without a server."""
    with tempfile.TemporaryDirectory() as folder:
        picture = store.download(f"runs:/{run_id}/{FIGURE}", folder).read_bytes()
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def print_report(text: str) -> None:
    """Print the report, in 120 columns where the output is not a terminal."""
    console = Console()
    Console(width=None if console.is_terminal else 120).print(Markdown(text))


def log_to_screen() -> None:
    """Print a flow's own log lines, and none of Prefect's."""
    connect_quietly()
    logging.getLogger("wine_quality").addHandler(logging.StreamHandler(sys.stdout))


def connect_quietly() -> None:
    """Connect a command to Prefect, with Prefect's own log lines on its server only, not on the screen."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    setup_logging()
    connect()
