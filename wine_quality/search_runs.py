"""A search in MLflow: one parent run, a nested run for each trial, each sent once, whatever happens in between."""

import hashlib
import logging
import time
from contextlib import suppress
from dataclasses import asdict
from textwrap import shorten

import pandas as pd
from mlflow.entities import Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from wine_quality import tuning
from wine_quality.config import Settings
from wine_quality.data import table_checksum
from wine_quality.errors import TrackingError
from wine_quality.journal import Journal
from wine_quality.tracking import SHOWN, Store, advice, log_dataset, root_cause, running, store
from wine_quality.tuning import Families, Trial

log = logging.getLogger("wine_quality.search")

WAIT = 30  # seconds from a failed try to send to the next


def tracked_search(
    config: Settings,
    wines: pd.DataFrame,
    source: str,
    max_evals: int,
    name: str = "search",
    searched: Families | None = None,
) -> tuple[list[Trial], str]:
    """Search as `tuning.search` does, a run for each trial under one parent; return the trials and the parent's id.

    Trials are kept in `.local/searches/` as they end. The same search, on the same wine with the same seed and space,
    goes on where it stopped, and what MLflow has not got yet is sent. Where nothing is missing, nothing is done.

    Raises
    ------
    SearchError
        As `tuning.search`; or the same search is running already.
    TrackingError
        MLflow cannot be reached before the first trial or after the last. All trials are kept.
    """
    tuning.check_budget(max_evals)
    families = tuning.families() if searched is None else searched
    space = str(tuning.space_of(families))
    key = hashlib.sha256(f"{table_checksum(wines)} {space}".encode()).hexdigest()[:12]
    path = config.local / "searches" / f"{config.seed}-{key}.jsonl"
    with Journal(path) as journal:
        with store(config) as opened:
            run = SearchRun(opened, config.seed, journal, name, wines, source)
        try:
            trials = tuning.search(wines, max_evals, config.seed, searched=families, kept=journal, tell=run.take)
            run.end()
        except BaseException:
            with suppress(MlflowException, SQLAlchemyError):  # what stopped the search is told, and not this
                run.close(RunStatus.KILLED)
            raise
    return trials, run.run_id


class SearchRun:
    """The runs of a search. What cannot be sent waits in the journal, and the search goes on."""

    def __init__(self, store: Store, seed: int, journal: Journal, name: str, wines: pd.DataFrame, source: str) -> None:
        self.store, self.client, self.journal = store, store.client, journal
        self.experiment_id = store.experiment_id
        self.waiting: list[Trial] = []
        self.try_at, self.error = 0.0, ""
        self.run_id = self.known_run() or self.new_run(name, seed, wines, source)
        self.client.update_run(self.run_id, RunStatus.to_string(RunStatus.RUNNING))
        lines = journal.lines
        self.sent = {line["sent"] for line in lines if line.get("run") == self.run_id and "sent" in line}
        self.begun = self.children()

    def known_run(self) -> str | None:
        """Return the parent of this search where MLflow still has it, and open it again."""
        ids = [line["run"] for line in self.journal.lines if "run" in line]
        try:
            known = bool(ids) and self.client.get_run(ids[-1]).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return ids[-1] if known else None

    def new_run(self, name: str, seed: int, wines: pd.DataFrame, source: str) -> str:
        """Start a parent run, and note its id."""
        with running(self.store, name, {}) as run_id:
            self.client.log_batch(run_id, params=[Param("seed", str(seed)), Param("wines", str(len(wines)))])
            log_dataset(self.store, run_id, wines, source, "training")
        self.journal.add({"run": run_id})
        return run_id

    def children(self) -> dict[int, str]:
        """Return the runs of trials that MLflow has, also of those that a killed process had no time to note."""
        found = self.client.search_runs([self.experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.run_id}'")
        return {int(run.data.tags["trial"]): run.info.run_id for run in found}

    def take(self, trial: Trial) -> None:
        """Send a trial that ended, unless it was sent before; where MLflow does not answer, it waits."""
        if trial.number in self.sent:
            return
        self.waiting.append(trial)
        if time.monotonic() < self.try_at:
            return
        try:
            self.send_all()
        except (MlflowException, SQLAlchemyError) as error:
            if not self.error:
                log.warning(
                    "MLflow: %s. The search goes on; its trials are kept in %s and sent later.",
                    shorten(str(root_cause(error)), SHOWN),
                    self.journal.path,
                )
            self.try_at, self.error = time.monotonic() + WAIT, str(error)

    def send_all(self) -> None:
        """Send what waits, in order, and note each."""
        while self.waiting:
            self.send(self.waiting[0])
            self.journal.add({"run": self.run_id, "sent": self.waiting.pop(0).number})
        self.error = ""

    def send(self, trial: Trial) -> None:
        """Make the nested run of a trial: three calls, its values in one batch."""
        started, ended = round(1000 * trial.started), round(1000 * trial.ended)
        run_id = self.begun.get(trial.number)
        if run_id is None:
            tags = {MLFLOW_PARENT_RUN_ID: self.run_id, "trial": str(trial.number), "error": trial.error}
            tags = {key: value for key, value in tags.items() if value}
            name = f"trial-{trial.number:02}-{trial.choice.name}"
            run_id = self.client.create_run(self.experiment_id, started, tags, name).info.run_id
            self.begun[trial.number] = run_id
        values = {"cpu_seconds": trial.cpu_seconds} | ({} if trial.loss is None else {"fold_rmse": trial.loss})
        metrics = [Metric(key, value, ended, 0) for key, value in values.items()]
        params = [Param(key, str(value)) for key, value in {"model": trial.choice.name, **trial.choice.params}.items()]
        self.client.log_batch(run_id, metrics=metrics, params=params)
        status = RunStatus.FAILED if trial.loss is None else RunStatus.FINISHED
        self.client.set_terminated(run_id, RunStatus.to_string(status), ended)

    def close(self, status: int) -> None:
        """End the parent run."""
        self.client.set_terminated(self.run_id, RunStatus.to_string(status))

    def end(self) -> None:
        """Send what still waits, and sum the search up in its parent run."""
        try:
            self.send_all()
            trials = [tuning.trial_of(line["trial"]) for line in self.journal.lines if "trial" in line]
            best, now = tuning.best(trials), round(1000 * time.time())
            sums = {"trials": len(trials), "best_fold_rmse": best.loss}
            self.client.log_batch(self.run_id, [Metric(key, value, now, len(trials)) for key, value in sums.items()])
            self.client.log_dict(self.run_id, asdict(best.choice), "best.json")
            self.close(RunStatus.FINISHED)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            cause = root_cause(error)
            raise TrackingError(
                f"MLflow: {shorten(str(cause), SHOWN)}. {len(self.waiting)} finished trials wait in "
                f"{self.journal.path}; the same search sends them, and none is repeated. {advice(cause)}"
            ) from error
