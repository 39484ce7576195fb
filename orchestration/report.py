"""The report of a training run, as Markdown: for the screen, for Prefect, for MLflow and for the bucket."""

from dataclasses import dataclass

import pandas as pd
from sklearn.pipeline import Pipeline

from wine_quality.config import Settings
from wine_quality.registry import Verdict
from wine_quality.sources import Dataset
from wine_quality.tracking import Tracked
from wine_quality.tuning import Candidate

REPORT = "report.md"  # an artifact of a run, in MLflow and in the bucket
HEADINGS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "accuracy": "right when rounded",
    "within_1": "within ±1",
    "qwk": "weighted kappa",
}


@dataclass(frozen=True)
class Prepared:
    """A dataset that was checked and split.

    Attributes
    ----------
    wine : Dataset
        As it was loaded.
    notes : list of str
        What the checks found: duplicates, leakage, the balance of the split.
    train, gate_set : DataFrame of shape (n rows, 13)
        Distinct rows; none is in both.
    """

    wine: Dataset
    notes: list[str]
    train: pd.DataFrame
    gate_set: pd.DataFrame

    @property
    def split(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Both sets."""
        return self.train, self.gate_set


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes
    ----------
    leaderboard : DataFrame
        One row a model, best first; its columns are the cross-validated scores.
    choice : Candidate
        The best of them.
    pipeline : Pipeline
        The best of them, fitted on the whole training set.
    gate_scores : dict
        Its scores on the gate set.
    """

    leaderboard: pd.DataFrame
    choice: Candidate
    pipeline: Pipeline
    gate_scores: dict[str, float]


@dataclass(frozen=True)
class Published:
    """Where a model is stored, the report so far, and the files queued for the bucket: none if nothing was new."""

    run: Tracked
    version: str
    text: str
    queued: list[str]


def render_report(prepared: Prepared, trained: Trained, outcome: str, links: dict[str, str]) -> str:
    """Return the report but for its last part, the bucket.

    `outcome` says whether the model was promoted, and `links` are the pages to look at by what they show.
    """
    choice = trained.choice
    return "\n\n".join(
        [
            "# Wine quality: training report",
            f"**Data**: {prepared.wine.why}.",
            bullets(prepared.notes),
            "## Models",
            "Cross-validated on the training set: each row is scored by a model that was not fitted on it.",
            table(trained.leaderboard),
            f"The best is **{choice.name}** with {params_text(choice)}. It was chosen by these scores, so its own is a "
            "little too good; `benchmarks/search.py` measures by nested cross-validation what a choice like this is "
            "worth. On the gate set, where it is compared with the champion:",
            table(pd.DataFrame([trained.gate_scores], index=[choice.name])),
            "## Champion or challenger",
            outcome,
            "## Where to look",
            "`make up` starts the servers. Then open:",
            bullets([f"{what}: {link}" for what, link in links.items()]),
        ]
    )


def params_text(choice: Candidate) -> str:
    """Return a model's parameters in words."""
    return ", ".join(f"`{name}={value}`" for name, value in choice.params.items()) or "the library's defaults"


def gate_text(verdict: Verdict, version: str) -> str:
    """Return the gate's decision and its reason as a sentence."""
    fate = "becomes the **champion**" if verdict.promoted else "stays a **challenger**: the champion does not change"
    change = f"lower than that of {verdict.opponent} by {verdict.gain:.4f}"
    if verdict.gain < 0:
        change = f"higher than that of {verdict.opponent} by {-verdict.gain:.4f}"
    return (
        f"Version {version} {fate} ({verdict.reason}). On the gate set its RMSE is {change}. The interval of the gain "
        f"is {verdict.low:z.4f} to {verdict.high:z.4f} at the {100 * verdict.confidence:.4g} % level. It covers both "
        f"the rows of the gate set and the training seeds, and is wider each time that a gate set is used: this is use "
        f"{verdict.use}."
    )


def unchanged_text(version: str, is_champion: bool) -> str:
    """Say that nothing new was registered, and why."""
    fate = "is the **champion**" if is_champion else "is not the champion"
    return (
        f"**Nothing new**: version {version} was trained on the same data with the same parameters, seed, code and "
        f"libraries, so no version was registered. Version {version} {fate}."
    )


def links(run: Tracked, version: str, config: Settings, flow_run_id: str | None) -> dict[str, str]:
    """Return the addresses of a run's pages, by what they show."""
    mlflow, prefect = f"http://127.0.0.1:{config.mlflow_port}/#", f"http://127.0.0.1:{config.prefect_port}"
    return {
        "the run": f"{mlflow}/experiments/{run.experiment_id}/runs/{run.run_id}",
        f"version {version} of the model": f"{mlflow}/models/{config.registered_model}/versions/{version}",
        "the flow run, with its log": f"{prefect}/runs/flow-run/{flow_run_id}",
    }


def bucket_text(published: Published, pushed: list[str], where: str) -> str:
    """Say what is in the bucket after a push."""
    run_id = published.run.run_id
    late = len(set(pushed) - {run_id})
    caught_up = f" {late} earlier run(s) from the outbox were pushed as well." if late else ""
    if not published.queued:
        return f"Nothing new was pushed.{caught_up}"
    return f"{where}, `runs/{run_id}/` holds {', '.join(f'`{name}`' for name in published.queued)}.{caught_up}"


def deleted_text(deleted: int, keep: int) -> str:
    """Say whose files were deleted, or nothing where none were."""
    return f" The files of {deleted} older run(s) were deleted: the newest {keep} keep theirs." if deleted else ""


def table(scores: pd.DataFrame) -> str:
    """Return a table of scores as Markdown."""
    columns = [name for name in HEADINGS if name in scores]
    lines = [
        ["model", *(HEADINGS[name] for name in columns)],
        ["---", *("---:" for _ in columns)],
        *([str(name), *(f"{row[column]:z.3f}" for column in columns)] for name, row in scores.iterrows()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: list[str]) -> str:
    """Return lines as a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)
