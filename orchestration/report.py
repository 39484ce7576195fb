"""The report of a training run, as Markdown: for the screen, for Prefect, for MLflow and for the bucket."""

from dataclasses import dataclass

import pandas as pd

from wine_quality.config import Settings
from wine_quality.data import Wine
from wine_quality.registry import Verdict
from wine_quality.tracking import Tracked
from wine_quality.tuning import Choice

HEADINGS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "accuracy": "right when rounded",
    "within_1": "within ±1",
    "qwk": "weighted kappa",
}


@dataclass(frozen=True)
class Training:
    """What a training run found out.

    Attributes
    ----------
    wine : Wine
        What it trained and scored on.
    notes : list of str
        What the checks found: repeats, leaks, the balance of the split.
    leaderboard : DataFrame
        One row a model, best first; its columns are the cross-validated scores.
    choice : Choice
        The best of them.
    holdout : dict
        Its scores on the hold-out.
    """

    wine: Wine
    notes: list[str]
    leaderboard: pd.DataFrame
    choice: Choice
    holdout: dict[str, float]


def report(
    training: Training, verdict: Verdict, run: Tracked, version: str, config: Settings, flow_run_id: str | None
) -> str:
    """Return the report but for its last part, the bucket."""
    choice = training.choice
    return "\n\n".join(
        [
            "# Wine quality: training report",
            f"**Wine**: {training.wine.why}.",
            bullets(training.notes),
            "## Models",
            "Cross-validated on the training side: each wine is scored by a model that never saw it.",
            table(training.leaderboard),
            f"The best is **{choice.name}** with {params_text(choice)}. On the hold-out, on which no choice was made:",
            table(pd.DataFrame([training.holdout], index=[choice.name])),
            "## Champion or challenger",
            gate_text(verdict, version),
            "## Where to look",
            "`make up` starts the servers. Then open:",
            bullets(where_to_look(run, version, config, flow_run_id)),
        ]
    )


def params_text(choice: Choice) -> str:
    """Return a model's parameters in words."""
    return ", ".join(f"`{name}={value}`" for name, value in choice.params.items()) or "its usual parameters"


def gate_text(verdict: Verdict, version: str) -> str:
    """Say what the gate decided and on what ground."""
    fate = "is the **champion** now" if verdict.promoted else "stays a **challenger**: the champion does not change"
    return (
        f"Version {version} {fate} ({verdict.reason}). On the hold-out its RMSE is lower than that of "
        f"{verdict.opponent} by {verdict.gain:.4f} (95 % interval {verdict.low:.4f} to {verdict.high:.4f}, "
        "by paired bootstrap)."
    )


def where_to_look(run: Tracked, version: str, config: Settings, flow_run_id: str | None) -> list[str]:
    """Return a line for each page on which the run can be seen."""
    mlflow, prefect = f"http://127.0.0.1:{config.mlflow_port}/#", f"http://127.0.0.1:{config.prefect_port}"
    return [
        f"the run: {mlflow}/experiments/{run.experiment_id}/runs/{run.run_id}",
        f"version {version} of the model: {mlflow}/models/{config.registered_model}/versions/{version}",
        f"the flow run, with its log: {prefect}/runs/flow-run/{flow_run_id}",
    ]


def bucket_text(run: Tracked, staged: list[str], pushed: list[str], whereabouts: str) -> str:
    """Say what lies in the bucket after a push."""
    late = len(set(pushed) - {run.run_id})
    caught_up = f" {late} earlier run(s) that had waited went with it." if late else ""
    return f"{whereabouts}, `runs/{run.run_id}/` holds {', '.join(f'`{name}`' for name in staged)}.{caught_up}"


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
