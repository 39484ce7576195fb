"""The search of the flow and of notebook 5: one parent run in MLflow, and a nested run for each trial.

The runs are the only record. An interrupted search resumes from them, with the draws it would have made otherwise.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from hyperopt import JOB_STATE_DONE, STATUS_FAIL, STATUS_NEW, STATUS_OK, Domain, Trials, space_eval, tpe
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from wine_quality.engines import CODE_SHA256, XGBOOST, Engine, InProcess
from wine_quality.errors import SearchError
from wine_quality.files import exclusive_lock, is_locked
from wine_quality.sources import table_checksum
from wine_quality.tracking import OUTAGE, dataset_input, translate_errors
from wine_quality.tuning import Candidate, Objective, SearchSpace, Trial, best, default_space, evaluate, hyperopt_space

log = logging.getLogger("wine_quality.search")

KEY = "search_key"  # the tag that identifies the search of a parent run
LIBRARIES = ("hyperopt", "numpy", "scikit-learn", XGBOOST)  # the libraries on which a draw or a loss depends
RESUMES = "The search stopped; its recorded trials are stored, and the same search will resume from them. "

RETRYING = Retrying(
    retry=retry_if_exception_type(OUTAGE),
    stop=stop_after_attempt(5),
    wait=wait_exponential(),  # 15 seconds in all, plus the time of the calls
    before_sleep=before_sleep_log(log, logging.WARNING),
    reraise=True,
)


def search(
    client: MlflowClient, experiment_id: str, objective: Objective, max_evals: int, locks: Path,
    *, engine: Engine | None = None, window: int = 1, space: SearchSpace | None = None, resume: bool = True,
    on_trial: Callable[[Trial], None] = lambda trial: None, retrying: Retrying = RETRYING,
) -> tuple[list[Trial], str]:  # fmt: skip
    """Search for the lowest loss of an objective, and return the trials and the id of their parent run.

    The algorithm is the Tree-structured Parzen Estimator of Bergstra et al. (2011), Algorithms for Hyper-Parameter
    Optimization. With the default `window` of 1, a draw depends on the seed, its number and all trials before it. With
    a window of k, up to k trials run at once on the workers of an `engine`: trial n is drawn from the losses of trials
    0 to n - k, and the k - 1 trials in between count as the worst so far, even if they have ended. So the trials are
    the same on any engine, in whatever order they end.

    With `resume`, the search continues from recorded runs of the same table, space, seed, window, code
    and libraries. A second process that runs the same search with the same folder of `locks` waits, and then takes over
    its trials. `max_evals` includes the recorded trials, and `on_trial` is called with each trial, as it ends.

    Raise `SearchError` if the space or the number of trials is invalid or every trial failed, `TrackingError` if MLflow
    cannot be reached: the recorded trials stay there, and the others get the same draws when the search resumes.
    """
    if max_evals < 1:
        raise SearchError(f"a search cannot have {max_evals} trials. Give it at least one.")
    expression = hyperopt_space(default_space() if space is None else space)
    key = search_key(objective, expression, window)
    lock = locks / f"search-{key}.lock"
    if is_locked(lock):
        log.warning("The same search is running in another process. Waiting for it to end; its trials will be reused.")
    with exclusive_lock(lock), translate_errors(*OUTAGE, consequence=RESUMES):
        parent = retrying(find_or_create_parent, client, experiment_id, key, objective, window, resume)
        draws = Draws(objective, expression, window)
        try:
            trials = TrialRuns(client, parent, retrying).run(draws, engine or InProcess(), max_evals, on_trial)
        except OUTAGE:
            raise  # no status can be set without MLflow
        except BaseException as error:
            client.set_terminated(parent.info.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
    return trials, parent.info.run_id


def search_key(objective: Objective, expression: Any, window: int) -> str:
    """Return a checksum of everything that the trials of a search depend on."""
    libraries = [version(name) for name in LIBRARIES]
    parts = [table_checksum(objective.train), str(expression), objective.seed, window, libraries, CODE_SHA256]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def find_or_create_parent(
    client: MlflowClient, experiment_id: str, key: str, objective: Objective, window: int, resume: bool
) -> Run:
    """Return the parent run of a search: the one with its key, or a new one."""
    if resume and (runs := client.search_runs([experiment_id], f"tags.{KEY} = '{key}'", max_results=1)):
        return runs[0]
    run = client.create_run(experiment_id, tags={KEY: key}, run_name="search")
    shown = {"seed": objective.seed, "rows": len(objective.train), "window": window}
    client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in shown.items()])
    client.log_inputs(run.info.run_id, [dataset_input(objective.train, "training set", "training")])
    return run


@dataclass
class TrialRuns:
    """The nested runs of a search, below their parent."""

    client: MlflowClient
    parent: Run
    retrying: Retrying

    def run(self, draws: "Draws", engine: Engine, max_evals: int, on_trial: Callable[[Trial], None]) -> list[Trial]:
        """Evaluate the trials that are not recorded yet, record each as it ends, and return all of them."""
        trials = self.retrying(self.recorded)
        before = set(trials)
        complete = self.parent.info.status == "FINISHED" and before >= set(range(max_evals))
        if not complete:
            self.retrying(self.client.update_run, self.parent.info.run_id, "RUNNING")
        hidden = False if issubclass(tqdm, tqdm_notebook) else None  # None: hidden unless there is a terminal
        ended = evaluate_in_order(draws, engine, trials, max_evals)
        for trial, seconds in tqdm(ended, "search", max_evals, disable=hidden, leave=False):
            if trial.number not in before:
                self.record(trial, round(1000 * (time.time() - seconds)))
            on_trial(trial)
        if not complete:
            self.summarise([trials[number] for number in sorted(trials)])
        return [trials[number] for number in range(max_evals)]

    def recorded(self) -> dict[int, Trial]:
        """Return the trials that ended, by number, and delete runs that were left half-written."""
        below = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent.info.run_id}'"
        runs = self.client.search_runs([self.parent.info.experiment_id], below, max_results=10_000)
        for run in runs:
            if run.info.status == "RUNNING":
                self.client.delete_run(run.info.run_id)
        trials = [trial_of(run) for run in runs if run.info.status != "RUNNING"]
        return {trial.number: trial for trial in trials}

    def record(self, trial: Trial, started: int) -> None:
        """Log a trial as a run, whose status is RUNNING until it is complete."""
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
        metrics = [metric("cpu_seconds", trial.cpu_seconds)]
        metrics += [] if trial.loss is None else [metric("fold_rmse", trial.loss)]
        self.retrying(self.client.log_batch, run.info.run_id, metrics, params)
        self.retrying(self.client.set_terminated, run.info.run_id, "FAILED" if trial.loss is None else "FINISHED")

    def summarise(self, trials: list[Trial]) -> None:
        """Log the number of trials and the best one to the parent run, and end it; raise if every trial failed."""
        if all(trial.loss is None for trial in trials):
            raise SearchError(
                f"all {len(trials)} trials failed, the last with: {trials[-1].error}. Fix the search space or the data."
            )
        top = best(trials)
        cpu_seconds = sum(trial.cpu_seconds for trial in trials)
        metrics = [
            metric("trials", len(trials)),
            metric("best_fold_rmse", top.loss),
            metric("cpu_seconds", cpu_seconds),
        ]
        tags = [RunTag("best_trial", str(top.number)), RunTag("best_candidate", json.dumps(asdict(top.candidate)))]
        self.retrying(self.client.log_batch, self.parent.info.run_id, metrics, tags=tags)
        self.retrying(self.client.set_terminated, self.parent.info.run_id, "FINISHED")


def metric(name: str, value: Any) -> Metric:
    """Return a metric with the current time."""
    return Metric(name, value, round(1000 * time.time()), 0)


def trial_of(run: Run) -> Trial:
    """Return the trial that a run records."""
    tags, metrics = run.data.tags, run.data.metrics
    candidate, draw = Candidate(**json.loads(tags["candidate"])), json.loads(tags["draw"])
    loss, cpu_seconds = metrics.get("fold_rmse"), metrics["cpu_seconds"]
    return Trial(int(tags["trial"]), candidate, loss, tags.get("error", ""), draw, cpu_seconds)


class Draws:
    """hyperopt's draws in order, each with its own seed, and with at most a window of trials pending."""

    def __init__(self, objective: Objective, expression: Any, window: int) -> None:
        self.objective, self.expression, self.window = objective, expression, window
        self.domain, self.history = Domain(objective, expression), Trials()

    def needs(self, number: int, trials: dict[int, Trial]) -> bool:
        """Return whether another trial must end before trial `number` can be drawn."""
        return number >= self.window and number - self.window not in trials

    def next(self, number: int, trials: dict[int, Trial]) -> dict[str, Any]:
        """Return the next trial as a pending hyperopt document: newly drawn, or with the recorded draw."""
        if number >= self.window:
            finish(self.history.trials[number - self.window], trials[number - self.window])
        if number in trials:
            doc = pending_doc(self.history, trials[number])
        else:
            seed = np.random.default_rng([self.objective.seed, number]).integers(2**31 - 1)
            (doc,) = tpe.suggest([number], self.domain, self.history, seed)
        self.history.insert_trial_doc(doc)
        self.history.refresh()
        return doc

    def drawn(self, doc: dict[str, Any]) -> dict[str, Any]:
        """Return a draw in the form that the objective takes."""
        return space_eval(
            self.expression, {label: values[0] for label, values in doc["misc"]["vals"].items() if values}
        )


def evaluate_in_order(
    draws: Draws, engine: Engine, trials: dict[int, Trial], max_evals: int
) -> Iterator[tuple[Trial, float]]:
    """Evaluate the trials missing in `trials`, add each as it ends, and yield all trials with the seconds they took."""
    running: dict[int, dict[str, Any]] = {}

    def next_ended() -> tuple[Trial, float]:
        number, (result, seconds, cpu_seconds) = engine.next_done()
        trials[number] = trial_from({**running.pop(number), "result": result}, cpu_seconds)
        return trials[number], seconds

    for number in range(max_evals):
        while draws.needs(number, trials):
            yield next_ended()
        doc = draws.next(number, trials)
        if number in trials:
            yield trials[number], 0.0
        else:
            running[number] = doc
            engine.submit(number, evaluate, draws.objective, draws.drawn(doc))
    while running:
        yield next_ended()


def trial_from(doc: dict[str, Any], cpu_seconds: float = 0.0) -> Trial:
    """Return the trial of a hyperopt document."""
    result, vals = doc["result"], doc["misc"]["vals"]
    draw = {label: [np.asarray(value).item() for value in values] for label, values in vals.items()}
    candidate = Candidate(result["name"], result["params"])
    return Trial(doc["tid"], candidate, result.get("loss"), result["error"], draw, cpu_seconds)


def pending_doc(history: Trials, trial: Trial) -> dict[str, Any]:
    """Return a recorded trial as a hyperopt document, with its draw and not yet with its loss."""
    misc = {
        "tid": trial.number,
        "cmd": ("domain_attachment", "FMinIter_Domain"),
        "idxs": {label: [trial.number] * len(values) for label, values in trial.draw.items()},
        "vals": trial.draw,
    }
    (doc,) = history.new_trial_docs([trial.number], [None], [{"status": STATUS_NEW}], [misc])
    return doc


def finish(doc: dict[str, Any], trial: Trial) -> None:
    """Enter the loss of a trial into its hyperopt document, so that later draws use it."""
    doc["state"] = JOB_STATE_DONE
    doc["result"] = {"status": STATUS_FAIL} if trial.loss is None else {"status": STATUS_OK, "loss": trial.loss}
