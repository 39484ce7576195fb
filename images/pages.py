"""Every picture that the READMEs show, by its name; for a page of a server also how to get there and what to show."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """A page of a server: its address, in which a name in braces stands for an id, and what to show of it.

    It is complete when `text` stands on it; then the texts of `clicks`, or the elements after `css=`, are clicked on,
    one after the other. If it `grows`, the window gets higher until nothing has to be scrolled. Where only a part of
    the page is shown, that begins with the line of `top` and ends with the line of `text`. `seconds` is how long to
    wait before the picture is taken.
    """

    path: str
    text: str
    width: int = 1280  # pixels
    height: int = 760
    clicks: tuple[str, ...] = ()
    top: str = ""
    seconds: float = 1.5
    grows: bool = True


LARGEST = 250_000  # bytes of a picture
FIGURES = ("correlation", "loop-in-steps", "parallel-coordinates", "search", "simulation", "the-loop", "three-worlds")
FIGURE = "predicted_against_actual.png"  # an artifact of the first run
COMPARED = '/#/compare-runs?runs=["{by_hand}","{by_autolog}"]&experiments=["1"]'
BY_MODEL = "/#/experiments/1/runs?compareRunsMode=CHART&searchFilter=metrics.fold_mae > 0"
FOLDED = ("Visualizations", "Run details", "Artifacts", "Tags")  # sections of a comparison
LARGER = "css=div:has(> div > [title=fold_rmse]) > [data-component-id=fullscreen_button_chartcard]"  # has no text
MLFLOW_EMPTY = {"mlflow-empty": Page("/#/experiments", "Default", height=320)}
MLFLOW = {
    "mlflow-runs": Page("/#/experiments/1/runs", "xgboost-by-autolog"),
    "mlflow-run": Page("/#/experiments/1/runs/{first}", "Registered models", height=872, grows=False),
    "mlflow-artifacts": Page("/#/experiments/1/runs/{first}/artifacts", FIGURE, clicks=(FIGURE,)),
    "mlflow-autolog": Page(COMPARED, "xgboost-by-autolog", clicks=FOLDED),
    "mlflow-model": Page("/#/experiments/1/models/{model}", "Not registered", height=880, grows=False),
    "mlflow-by-model": Page(BY_MODEL, "fold_rmse", 1100, 800, grows=False, clicks=(LARGER,)),
    "mlflow-registry": Page("/#/models/wine-quality-lesson", "champion", height=620),
    "mlflow-version": Page("/#/models/wine-quality-lesson/versions/2", "champion", height=620),
}
TALL = 2000  # Prefect draws only the lines in view
PREFECT = {
    "prefect-dashboard": Page("/dashboard", "Active Work Pools", height=500),
    "prefect-deployments": Page("/deployments", "monitor-weekly", height=640),
    "prefect-run": Page("/runs/flow-run/{run}", "Task runs", height=500, grows=False),
    "prefect-details": Page("/runs/flow-run/{run}?tab=Details", "^Retries$", height=TALL, top="^Logs$"),
    "prefect-logs": Page("/runs/flow-run/{subflow}", r"score\s+on", height=TALL, top=r"baseline\s+cached"),
    "prefect-work-pool": Page("/work-pools/work-pool/wine", "Concurrency Limit"),
    "prefect-block": Page("/blocks/block/{block}", "wine-credentials", 980, 496, grows=False),
}
REASON = "Its errors by slice are acceptable."  # of the approval
APPROVAL = {"prefect-approval": Page("/runs/flow-run/{run}", "Paused", height=700, clicks=("Resume",))}
MODEL_CARD = {"mlflow-model-card": Page("/#/models/wine-quality/versions/1", "champion", height=728, grows=False)}
BUCKET = {"bucket": Page("/wine-quality/runs/{run_id}/", "manifest.json", 980, 400)}
SERVICE = {"service-page": Page("/", r"interval: \d", height=980)}
MONITORED = "week 24"
MONITORING = {"monitoring-report": Page("/artifacts/artifact/{report}", "coverage", 1600, 1140)}
DRIFT = {"evidently-report": Page("/drift-report.html", "Drift", 1100, 900)}  # a file that notebook 9 leaves

DASK = {"dask-dashboard": Page("/status", "Status", 1280, 800, seconds=60)}

PICTURES = sorted(
    [*FIGURES, *MLFLOW_EMPTY, *MLFLOW, *MODEL_CARD, *PREFECT, *APPROVAL, *BUCKET, *SERVICE, *MONITORING, *DRIFT, *DASK]
)
