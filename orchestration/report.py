"""The report of a training run: as Markdown, and as artifacts in Prefect and MLflow."""

import base64
import tempfile
from dataclasses import dataclass
from typing import Any

import pandas as pd
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from rich.console import Console
from rich.markdown import Markdown
from sklearn.pipeline import Pipeline

from orchestration.prefect_server import without_credentials
from wine_quality.config import Settings, settings
from wine_quality.evaluation import Evaluation
from wine_quality.models import default_params
from wine_quality.registry import Verdict
from wine_quality.sources import Dataset
from wine_quality.templates import render
from wine_quality.tracking import FIGURE, Store, Tracked, Whole
from wine_quality.tuning import Candidate

REPORT, CARD = "report.md", "model-card.md"  # artifacts of a run, in MLflow and in the bucket
HEADINGS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "accuracy": "accuracy, rounded",
    "within_1": "within ±1",
    "qwk": "weighted kappa",
}


@dataclass(frozen=True)
class Prepared:
    """A dataset, what its checks found (duplicates, leakage, the balance of the split), and the split of its rows.

    If there is a `whole`, the two sets are samples of it.
    """

    dataset: Dataset
    notes: list[str]
    train: pd.DataFrame
    gate_set: pd.DataFrame
    whole: Whole | None = None

    @property
    def validation(self) -> str:
        """How the leaderboard was scored: `cv`, by cross-validation, or `held_out`, on rows that were left out."""
        return "held_out" if self.whole and self.whole.held_out else "cv"

    @property
    def split(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The training set and the gate set."""
        return self.train, self.gate_set


@dataclass(frozen=True)
class Trained:
    """The cross-validated scores of each model, best first; the best and its intervals, fitted; its evaluation."""

    leaderboard: pd.DataFrame
    choice: Candidate
    pipeline: Pipeline
    interval: Pipeline
    evaluation: Evaluation

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the best model, over the library's defaults."""
        return self.choice.params or default_params(self.choice.name)


@dataclass(frozen=True)
class Published:
    """Where a model is stored, the report so far, and the files queued for the bucket: none if nothing was new.

    `proposed` is the comparison that it passed if a person has to approve its promotion, and `card` is its model card.
    `inputs` is the checksum of everything that the model depends on.
    """

    run: Tracked
    version: str
    text: str
    queued: list[str]
    card: str = ""
    proposed: Verdict | None = None
    inputs: str = ""


def render_report(prepared: Prepared, trained: Trained, run: Tracked, version: str, **outcome: Any) -> str:
    """Return the report without its last section, the bucket; `outcome` is a `verdict`, or whether it `is_champion`."""
    config = settings()
    return render(
        "training.md.j2",
        headings=HEADINGS,
        prepared=prepared,
        trained=trained,
        gate_table=pd.DataFrame([trained.evaluation.scores], index=[trained.choice.name]),
        version=version,
        run_page=run_page(run, config),
        pages=pages(config),
        config=config,
        manual=config.approval == "manual",
        flow_run_id=flow_run.root_flow_run_id,
        **outcome,
    )


def run_page(run: Tracked, config: Settings) -> str:
    """Return the address of a run's page in MLflow."""
    return f"{pages(config)[0]}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def pages(config: Settings) -> tuple[str, str]:
    """Return the addresses of MLflow's pages and Prefect's: those of the shared servers, else those of `make up`."""
    if config.tracking_uri.startswith("http"):
        return without_credentials(config.tracking_uri), without_credentials(PREFECT_API_URL.value()).removesuffix(
            "/api"
        )
    return f"http://127.0.0.1:{config.mlflow_port}", f"http://127.0.0.1:{config.prefect_port}"


def create_artifacts(store: Store, config: Settings, trained: Trained, published: Published, text: str) -> None:
    """Create the flow run's artifacts: report, scores, figure, link. A new report goes to MLflow as well."""
    run, name = published.run, trained.choice.name
    if published.queued:
        store.client.log_text(run.run_id, text, REPORT)
    create_markdown_artifact(text, key="training-report", description="The report of the training run")
    models = trained.leaderboard.rename(columns=HEADINGS).round(3).rename_axis("model").reset_index()
    create_table_artifact(
        models.to_dict("records"),
        key="models",
        description="Cross-validated scores on the training set, the best first",
    )
    with tempfile.TemporaryDirectory() as folder:
        figure = base64.b64encode(store.download(f"runs:/{run.run_id}/{FIGURE}", folder).read_bytes()).decode()
    create_image_artifact(
        f"data:image/png;base64,{figure}",  # in the link itself, so that it shows without a server
        key="predicted-against-actual",
        description=f"Predictions of {name} on the gate set against the actual scores",
    )
    create_link_artifact(run_page(run, config), f"{name} in MLflow", key="mlflow-run", description="The MLflow run")


def print_report(text: str) -> None:
    """Print the report, in 120 columns where the output is not a terminal."""
    console = Console()
    Console(width=None if console.is_terminal else 120).print(Markdown(text))
