"""The search, as the flow and notebook 5 run it: a parent run in MLflow, and a nested run for each trial.

The runs are the only record. A search that was interrupted resumes from them, with the draws it would have made anyway.

Trials may run side by side on an engine, within a window of k trials: trial n is drawn from the results of trials 0 to
n - k, and those between count as pending. So the draws depend on the seed, the number and k alone, never on how many
workers there are, which is the fastest, or whether one dies. k = 1 is the sequential search.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from hyperopt import JOB_STATE_DONE, JOB_STATE_NEW, STATUS_FAIL, STATUS_NEW, STATUS_OK, Domain, Trials, space_eval, tpe
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from tenacity import Retrying, before_sleep_log, retry_if_exception_type, stop_after_attempt, wait_exponential
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from wine_quality.engines import Engine, InProcess, Shared
from wine_quality.errors import SearchError
from wine_quality.files import exclusive_lock, is_locked
from wine_quality.sources import table_checksum
from wine_quality.tracking import OUTAGE, XGBOOST, dataset_input, translate_errors
from wine_quality.tuning import Candidate, Objective, SearchSpace, Trial, best, default_space, hyperopt_space

log = logging.getLogger("wine_quality.search")

KEY = "search_key"  # the tag of a parent run that identifies its search
LIBRARIES = ("hyperopt", "numpy", "scikit-learn", XGBOOST)  # on which a draw or a loss depends
CODE = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]  # as it was imported
Draw = dict[str, list[float]]
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
    engine: Engine | None = None, window: int = 1, retrying: Retrying = RETRYING,
) -> tuple[list[Trial], str]:  # fmt: skip
    """Search for the lowest loss of an objective, and return the trials and the id of their parent run.

    The Tree-structured Parzen Estimator of Bergstra et al. (2011), Algorithms for Hyper-Parameter Optimization. A draw
    follows from the seed, its number and the trials before it, except for the last `window` - 1, which may still be
    running on the `engine`, by default this process. With `resume`, the search goes on from the runs of the same table,
    space, seed, window, code and libraries; a second process that runs it on the same folder of `locks` waits, and
    takes over its trials. `max_evals` counts the recorded trials too, and `on_trial` is called with each of them, by
    number.

    Raise `SearchError` if the space or the number of trials is invalid or every trial failed, `TrackingError` if MLflow
    cannot be reached: the recorded trials are kept, and the others get the same draws when the search resumes.
    """
    if max_evals < 1:
        raise SearchError(f"a search of {max_evals} trials. Give it at least one.")
    expression = hyperopt_space(default_space() if space is None else space)
    key = search_key(objective, expression, window)
    lock = locks / f"search-{key}.lock"
    if is_locked(lock):
        log.warning("The same search is running in another process. Waiting for it, to take over its trials.")
    with exclusive_lock(lock), translate_errors(*OUTAGE, consequence=RESUMES):
        parent = retrying(find_or_create_parent, client, experiment_id, key, objective, window, resume)
        draws = Draws(objective, expression, window)
        try:
            trials = TrialRuns(client, parent, retrying).run(draws, engine or InProcess(), max_evals, on_trial)
        except OUTAGE:
            raise  # the status cannot be set
        except BaseException as error:
            client.set_terminated(parent.info.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
    return trials, parent.info.run_id


def search_key(objective: Objective, expression: Any, window: int) -> str:
    """Return a checksum of all that the trials of a search depend on."""
    libraries = [version(name) for name in LIBRARIES]
    parts = [table_checksum(objective.train), str(expression), objective.seed, window, libraries, CODE]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def find_or_create_parent(
    client: MlflowClient, experiment_id: str, key: str, objective: Objective, window: int, resume: bool
) -> Run:
    """Return the parent run of a search: the one with its key, or a new one."""
    if resume and (runs := client.search_runs([experiment_id], f"tags.{KEY} = '{key}'", max_results=1)):
        return runs[0]
    run = client.create_run(experiment_id, tags={KEY: key}, run_name="search")
    params = {"seed": objective.seed, "rows": len(objective.train), "window": window}
    client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in params.items()])
    client.log_inputs(run.info.run_id, [dataset_input(objective.train, "training set", "training")])
    return run


@dataclass
class Draws:
    """The candidates of a search, drawn by hyperopt with a seed of each trial's own."""

    objective: Objective
    expression: Any
    window: int

    def __post_init__(self) -> None:
        self.domain = Domain(self.objective, self.expression)

    def draw(self, trials: dict[int, Trial], drawn: dict[int, Draw], number: int) -> Draw:
        """Return the draw of a trial, hyperopt's `misc.vals`, from the trials that it may know and those pending."""
        history, known = Trials(), max(0, number - self.window + 1)
        for earlier in range(number):
            add_to_history(history, earlier, drawn[earlier], trials[earlier] if earlier < known else None)
        history.refresh()
        seed = np.random.default_rng([self.objective.seed, number]).integers(2**31 - 1)  # as `fmin` takes it
        (doc,) = tpe.suggest([number], self.domain, history, seed)
        return {label: [np.asarray(value).item() for value in values] for label, values in doc["misc"]["vals"].items()}

    def point(self, draw: Draw) -> dict[str, Any]:
        """Return a draw as the objective takes it."""
        return space_eval(self.expression, {label: values[0] for label, values in draw.items() if values})


@dataclass
class TrialRuns:
    """The nested runs of a search, below their parent."""

    client: MlflowClient
    parent: Run
    retrying: Retrying

    def run(self, draws: Draws, engine: Engine, max_evals: int, on_trial: Callable[[Trial], None]) -> list[Trial]:
        """Evaluate the trials that are not recorded yet, record each as it ends, and return all of them."""
        trials = self.retrying(self.recorded)
        complete = self.parent.info.status == "FINISHED" and trials.keys() >= set(range(max_evals))
        if not complete:
            self.retrying(self.client.update_run, self.parent.info.run_id, "RUNNING")
        drawn = {number: trial.draw for number, trial in trials.items()}
        shared = Shared(self.parent.info.run_id, Objective, (draws.objective.train, draws.objective.seed))
        shared.hold(draws.objective)
        hidden = False if issubclass(tqdm, tqdm_notebook) else None  # None: where nobody watches a terminal
        submitted = 0
        for number in tqdm(range(max_evals), desc="search", disable=hidden, leave=False):
            while submitted < min(max_evals, number + draws.window):
                if submitted not in drawn:
                    drawn[submitted] = draws.draw(trials, drawn, submitted)
                    engine.submit(submitted, evaluate, shared, draws.point(drawn[submitted]))
                submitted += 1
            while number not in trials:
                done, (result, started, seconds) = engine.next_done()
                trials[done] = replace(trial_from(done, drawn[done], result), seconds=seconds)
                self.record(trials[done], started)
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
        """Log a trial as a run that began at `started`, in Unix ms, and is RUNNING until all of it is there."""
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
        metrics = [metric("cpu_seconds", trial.seconds)]
        metrics += [] if trial.loss is None else [metric("fold_rmse", trial.loss)]
        self.retrying(self.client.log_batch, run.info.run_id, metrics, params)
        self.retrying(self.client.set_terminated, run.info.run_id, "FAILED" if trial.loss is None else "FINISHED")

    def summarise(self, trials: list[Trial]) -> None:
        """Log the number of trials and the best of them to the parent, and end it, unless every trial failed."""
        if all(trial.loss is None for trial in trials):
            raise SearchError(
                f"all {len(trials)} trials failed, the last with: {trials[-1].error}. Fix the search space or the data."
            )
        top = best(trials)
        seconds = sum(trial.seconds for trial in trials)
        metrics = [metric("trials", len(trials)), metric("best_fold_rmse", top.loss), metric("cpu_seconds", seconds)]
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
    loss, seconds = (run.data.metrics.get(name) for name in ("fold_rmse", "cpu_seconds"))
    return Trial(int(tags["trial"]), candidate, loss, tags.get("error", ""), draw, seconds or 0.0)


def evaluate(objective: Shared, point: dict[str, Any]) -> tuple[dict[str, Any], int, float]:
    """Evaluate a point of the search space; return hyperopt's result, the start in Unix ms, and the CPU seconds.

    Linear algebra uses one thread, because the last digits of a loss depend on their number.
    """
    loss, started, before = objective.get(), round(1000 * time.time()), time.process_time()
    with threadpool_limits(1):
        return loss(point), started, time.process_time() - before


def trial_from(number: int, draw: Draw, result: dict[str, Any]) -> Trial:
    """Return the trial that an objective's result is of."""
    return Trial(number, Candidate(result["name"], result["params"]), result.get("loss"), result["error"], draw)


def add_to_history(history: Trials, number: int, draw: Draw, trial: Trial | None) -> None:
    """Add a draw to hyperopt's trials, with the result of its trial, or as pending if that is None."""
    state, result = JOB_STATE_NEW, {"status": STATUS_NEW}
    if trial is not None:
        state = JOB_STATE_DONE
        result = {"status": STATUS_FAIL} if trial.loss is None else {"status": STATUS_OK, "loss": trial.loss}
    misc = {
        "tid": number,
        "cmd": ("domain_attachment", "FMinIter_Domain"),
        "idxs": {label: [number] * len(values) for label, values in draw.items()},
        "vals": draw,
    }
    (doc,) = history.new_trial_docs([number], [None], [result], [misc])
    history.insert_trial_doc({**doc, "state": state})
