"""The search, as the flow and notebook 5 run it: a parent run in MLflow, and a nested run for each trial.

The runs are the only record. A search that was interrupted resumes from them, with the draws it would have made anyway.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from hyperopt import JOB_STATE_DONE, STATUS_FAIL, STATUS_OK, Trials, fmin, tpe
from hyperopt.exceptions import AllTrialsFailed
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from wine_quality.errors import SearchError
from wine_quality.files import exclusive_lock, is_locked
from wine_quality.sources import table_checksum
from wine_quality.tracking import OUTAGE, XGBOOST, dataset_input, translate_errors
from wine_quality.tuning import Candidate, Objective, SearchSpace, Trial, best, default_space, hyperopt_space

log = logging.getLogger("wine_quality.search")

KEY = "search_key"  # the tag of a parent run that identifies its search
LIBRARIES = ("hyperopt", "numpy", "scikit-learn", XGBOOST)  # on which a draw or a loss depends
CODE = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]  # as it was imported
RESUMES = "The search stopped; its recorded trials are kept, and the same search resumes after them. "

RETRYING = Retrying(
    retry=retry_if_exception_type(OUTAGE),
    stop=stop_after_attempt(5),
    wait=wait_exponential(),  # 15 seconds in all, besides what the calls take
    before_sleep=before_sleep_log(log, logging.WARNING),
    reraise=True,
)


def search(
    client: MlflowClient, experiment_id: str, objective: Objective, max_evals: int, locks: Path,
    *, space: SearchSpace | None = None, resume: bool = True, on_trial: Callable[[Trial], None] = lambda trial: None,
    retrying: Retrying = RETRYING,
) -> tuple[list[Trial], str]:  # fmt: skip
    """Search for the lowest loss of an objective, and return the trials and the id of their parent run.

    The Tree-structured Parzen Estimator of Bergstra et al. (2011), Algorithms for Hyper-Parameter Optimization. A draw
    follows from the seed, its number and the trials before it. With `resume`, the search goes on from the runs of the
    same table, space, seed, code and libraries; a second process that runs it on the same folder of `locks` waits, and
    takes over its trials. `max_evals` counts the recorded trials too, and `on_trial` is called with each of them.

    Raise `SearchError` if the space or the number of trials is invalid or every trial failed, `TrackingError` if MLflow
    cannot be reached: the recorded trials are kept, and the others get the same draws when the search resumes.
    """
    if max_evals < 1:
        raise SearchError(f"a search of {max_evals} trials. Give it at least one.")
    expression = hyperopt_space(default_space() if space is None else space)
    key = search_key(objective, expression)
    lock = locks / f"search-{key}.lock"
    if is_locked(lock):
        log.warning("The same search is running in another process. Waiting for it, to take over its trials.")
    with exclusive_lock(lock), translate_errors(*OUTAGE, consequence=RESUMES):
        parent = retrying(find_or_create_parent, client, experiment_id, key, objective, resume)
        try:
            trials = TrialRuns(client, parent, retrying).run(objective, expression, max_evals, on_trial)
        except OUTAGE:
            raise  # the status cannot be set
        except BaseException as error:
            client.set_terminated(parent.info.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
    return trials, parent.info.run_id


def search_key(objective: Objective, expression: Any) -> str:
    """Return a checksum of all that the trials of a search depend on."""
    libraries = [version(name) for name in LIBRARIES]
    parts = [table_checksum(objective.train), str(expression), objective.seed, libraries, CODE]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def find_or_create_parent(
    client: MlflowClient, experiment_id: str, key: str, objective: Objective, resume: bool
) -> Run:
    """Return the parent run of a search: the one with its key, or a new one."""
    if resume and (runs := client.search_runs([experiment_id], f"tags.{KEY} = '{key}'", max_results=1)):
        return runs[0]
    run = client.create_run(experiment_id, tags={KEY: key}, run_name="search")
    params = [Param("seed", str(objective.seed)), Param("rows", str(len(objective.train)))]
    client.log_batch(run.info.run_id, params=params)
    client.log_inputs(run.info.run_id, [dataset_input(objective.train, "training set", "training")])
    return run


@dataclass
class TrialRuns:
    """The nested runs of a search, below their parent."""

    client: MlflowClient
    parent: Run
    retrying: Retrying

    def run(
        self, objective: Objective, expression: Any, max_evals: int, on_trial: Callable[[Trial], None]
    ) -> list[Trial]:
        """Evaluate the trials that are not recorded yet, record each as it ends, and return all of them."""
        trials, history = self.retrying(self.recorded), Trials()
        complete = self.parent.info.status == "FINISHED" and trials.keys() >= set(range(max_evals))
        if not complete:
            self.retrying(self.client.update_run, self.parent.info.run_id, "RUNNING")
        hidden = False if issubclass(tqdm, tqdm_notebook) else None  # None: where nobody watches a terminal
        for number in tqdm(range(max_evals), desc="search", disable=hidden, leave=False):
            if number in trials:
                add_to_history(history, trials[number])
            else:
                started = round(1000 * time.time())
                trials[number] = evaluate_next(objective, expression, history)
                self.record(trials[number], started)
            on_trial(trials[number])
        if not complete:
            self.summarise([trials[number] for number in sorted(trials)])
        return [trials[number] for number in range(max_evals)]

    def recorded(self) -> dict[int, Trial]:
        """Return the trials that ended, by number. A run that was left half-written is deleted."""
        below = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent.info.run_id}'"
        runs = self.client.search_runs([self.parent.info.experiment_id], below, max_results=10_000)
        for run in runs:
            if run.info.status == "RUNNING":
                self.client.delete_run(run.info.run_id)
        trials = [trial_of(run) for run in runs if run.info.status != "RUNNING"]
        return {trial.number: trial for trial in trials}

    def record(self, trial: Trial, started: int) -> None:
        """Log a trial as a run, which is RUNNING until all of it is there."""
        tags = {
            MLFLOW_PARENT_RUN_ID: self.parent.info.run_id,
            "trial": str(trial.number),
            "draw": json.dumps(trial.draw),
            "candidate": json.dumps(asdict(trial.candidate)),
        }
        tags |= {"error": trial.error} if trial.error else {}
        name = f"trial-{trial.number:02}-{trial.candidate.name}"
        run = self.retrying(self.client.create_run, self.parent.info.experiment_id, started, tags, name)
        shown = {"model": trial.candidate.name, **trial.candidate.params}
        params = [Param(key, str(value)) for key, value in shown.items()]
        metrics = [] if trial.loss is None else [metric("fold_rmse", trial.loss)]
        self.retrying(self.client.log_batch, run.info.run_id, metrics, params)
        self.retrying(self.client.set_terminated, run.info.run_id, "FAILED" if trial.loss is None else "FINISHED")

    def summarise(self, trials: list[Trial]) -> None:
        """Log the number of trials and the best of them to the parent, and end it, unless every trial failed."""
        if all(trial.loss is None for trial in trials):
            raise SearchError(
                f"all {len(trials)} trials failed, the last with: {trials[-1].error}. Fix the search space or the data."
            )
        top = best(trials)
        metrics = [metric("trials", len(trials)), metric("best_fold_rmse", top.loss)]
        tags = [RunTag("best_trial", str(top.number)), RunTag("best_candidate", json.dumps(asdict(top.candidate)))]
        self.retrying(self.client.log_batch, self.parent.info.run_id, metrics, tags=tags)
        self.retrying(self.client.set_terminated, self.parent.info.run_id, "FINISHED")


def metric(name: str, value: Any) -> Metric:
    """Return a metric of this moment."""
    return Metric(name, value, round(1000 * time.time()), 0)


def trial_of(run: Run) -> Trial:
    """Return the trial that a run records."""
    tags = run.data.tags
    candidate, draw = Candidate(**json.loads(tags["candidate"])), json.loads(tags["draw"])
    return Trial(int(tags["trial"]), candidate, run.data.metrics.get("fold_rmse"), tags.get("error", ""), draw)


def evaluate_next(objective: Objective, expression: Any, history: Trials) -> Trial:
    """Let hyperopt draw the next candidate, with a seed of the trial's own, and evaluate it."""
    number = len(history.trials)
    rng = np.random.default_rng([objective.seed, number])
    quiet: dict[str, Any] = {"verbose": False, "return_argmin": False}
    with suppress(AllTrialsFailed):  # hyperopt looks for the best so far; the trial is in the history all the same
        fmin(objective, expression, tpe.suggest, number + 1, trials=history, rstate=rng, **quiet)
    return trial_from(history.trials[-1])


def trial_from(doc: dict[str, Any]) -> Trial:
    """Return the trial that hyperopt holds as `doc`."""
    result, vals = doc["result"], doc["misc"]["vals"]
    draw = {label: [np.asarray(value).item() for value in values] for label, values in vals.items()}
    return Trial(doc["tid"], Candidate(result["name"], result["params"]), result.get("loss"), result["error"], draw)


def add_to_history(history: Trials, trial: Trial) -> None:
    """Add a recorded trial to hyperopt's trials, so that its next draw knows it."""
    result = {"status": STATUS_FAIL} if trial.loss is None else {"status": STATUS_OK, "loss": trial.loss}
    misc = {
        "tid": trial.number,
        "cmd": ("domain_attachment", "FMinIter_Domain"),
        "idxs": {label: [trial.number] * len(values) for label, values in trial.draw.items()},
        "vals": trial.draw,
    }
    (doc,) = history.new_trial_docs([trial.number], [None], [result], [misc])
    history.insert_trial_doc({**doc, "state": JOB_STATE_DONE})
    history.refresh()
