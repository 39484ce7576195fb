"""Versions of the model, the champion among them, and the gate before it.

The alias `champion` names the version that is in use, `challenger` the newest one as long as it is not champion itself.
A challenger becomes champion only if its RMSE on the gate set is lower by a minimum effect and the gain is
statistically significant.
The description of a version, which MLflow shows beside it, says why it is what it is.
"""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, get_model_info
from sklearn.pipeline import Pipeline

from wine_quality.comparison import between_seeds, confidence, tail, too_little
from wine_quality.config import Settings
from wine_quality.errors import RegistryError
from wine_quality.files import sha256
from wine_quality.metrics import gain_interval
from wine_quality.models import predict
from wine_quality.schema import TARGET
from wine_quality.splits import wine_keys
from wine_quality.tracking import MODEL_FILE, SCORED_ON, SOURCE, TRAINED_ON, Tracked, checksum, copy_model

CHAMPION, CHALLENGER = "champion", "challenger"
REPLACED = "replaced"  # the tag of a version that names the champion before it
MODEL_SUM = "model_sha256"  # the tag that has the sum of its model's file
INPUTS = "inputs_sha256"  # the tag with the checksum of all that its model depends on, set once it is published
DISTINCT_ROWS = "distinct_rows_sha256"  # the tag with the checksum of the rows that it was trained and compared on
FILES = "files"  # the tag of a version whose files were deleted
GATE_SET = "gate_set_sha256"  # the tag that names the gate set on which it was compared


@dataclass(frozen=True)
class Verdict:
    """The result of comparing a challenger with the champion, and the reason for the decision.

    `gain` is by how much its RMSE on the gate set is below that of `opponent`, and `low` to `high` the interval at the
    level `confidence`, which rises with `use`: 2 if one challenger was compared on the same gate set before, and so on.
    `compared_on` is the checksum of the gate set if the comparison with a champion was fair, else empty.
    """

    promoted: bool
    opponent: str
    gain: float
    low: float
    high: float
    reason: str
    use: int
    compared_on: str = ""

    @property
    def confidence(self) -> float:
        """The level of the interval, 0 to 1."""
        return confidence(self.use)


def champion(config: Settings) -> ModelVersion | None:
    """Return the version with the alias `champion`, or None where there is none yet."""
    try:
        return MlflowClient().get_model_version_by_alias(config.registered_model, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def register(config: Settings, run: Tracked, tags: dict[str, str]) -> str:
    """Register a run's model as the next version, under the alias `challenger`, and return the version's number.

    The tags of the version hold the checksum of the model's file and, for `compare` to count, that of the gate set. A
    run that an earlier, failed attempt registered keeps its version and its checksum.
    """
    client = MlflowClient()
    if not client.search_registered_models(f"name = '{config.registered_model}'"):
        create_name(config.registered_model)
    earlier = client.search_model_versions(f"name = '{config.registered_model}' and run_id = '{run.run_id}'")
    if earlier:
        made = earlier[0]
    else:
        source, seen = f"models:/{run.model_id}", client.get_run(run.run_id).data.tags.get(SCORED_ON)
        counted = {GATE_SET: seen} if seen else {}
        made = client.create_model_version(
            config.registered_model, source, run.run_id, tags={**tags, **counted}, model_id=run.model_id
        )
    version = str(made.version)
    if MODEL_SUM not in made.tags:
        client.set_model_version_tag(config.registered_model, version, MODEL_SUM, model_sum(run.model_id))
    client.set_registered_model_alias(config.registered_model, CHALLENGER, version)
    return version


def create_name(name: str) -> None:
    """Create a registered model, unless another process has just done so."""
    try:
        MlflowClient().create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def explain(config: Settings, version: str, verdict: Verdict) -> None:
    """Write the description of a version: its model, data and scores, and what the gate found."""
    client = MlflowClient()
    run = client.get_run(client.get_model_version(config.registered_model, version).run_id)
    client.update_model_version(config.registered_model, version, description(run, verdict))


def description(run: Run, verdict: Verdict) -> str:
    """Return a run and the gate's verdict on its model as Markdown."""
    data, scores = run.data, run.data.metrics
    rows = [
        f"| {where} | {scores[f'{key}_rmse']:.4f} | {scores[f'{key}_r2']:.3f} |"
        for key, where in (("cv", "cross-validation"), ("gate", "gate set"))
        if {f"{key}_rmse", f"{key}_r2"} <= scores.keys()
    ]
    lines = [
        f"`{data.params.get('model', 'model')}` of run {run.info.run_name}. Data: {data.tags.get(SOURCE, 'unknown')}, "
        f"{data.tags.get('data', 'origin not logged')}.",
        "\n".join(["| scored on | RMSE | R² |", "| --- | ---: | ---: |", *rows]),
        f"Gate: **{'promoted' if verdict.promoted else 'rejected'}**, {verdict.reason}. RMSE on the gate set lower by "
        f"{verdict.gain:.4f} than {verdict.opponent} ({100 * verdict.confidence:.4g} % interval {verdict.low:.4f} to "
        f"{verdict.high:.4f}; negative means higher).",
    ]
    return "\n\n".join(lines)


def add_note(name: str, version: str, note: str) -> None:
    """Add a line with the time to the description of a version."""
    client, now = MlflowClient(), datetime.now(UTC)
    before = client.get_model_version(name, version).description or ""
    client.update_model_version(name, version, f"{before}\n\n{now:%Y-%m-%d %H:%M} UTC: {note}".strip())


def crown(name: str, version: str) -> None:
    """Give a version the alias `champion`, and take `challenger` from it."""
    client = MlflowClient()
    client.set_registered_model_alias(name, CHAMPION, version)
    if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def model_sum(model_id: str) -> str:
    """Return the sha256 sum of the file of a logged model."""
    with tempfile.TemporaryDirectory() as aside:
        return sha256(copy_model(model_id, Path(aside) / MODEL_FILE))


def compare(
    config: Settings, challenger: Pipeline, train: pd.DataFrame, gate_set: pd.DataFrame, source: str
) -> Verdict:
    """Compare a challenger with the champion on the gate set, or with the training mean if there is no champion yet.

    Parameters
    ----------
    config : Settings
    challenger : Pipeline
        Fitted on `train`.
    train, gate_set : DataFrame of shape (n rows, 13)
        The training set and the gate set, distinct rows; none is in both.
    source : str
        Where the data came from, as `data.Wine.source`.

    Raises
    ------
    RegistryError
        The champion does not load.

    Notes
    -----
    The challenger passes if its RMSE is lower by at least `config.minimum_gain` and the whole interval of the gain is
    above zero. Two models that differ only in the seed differ in RMSE too, so the interval covers the variance between
    seeds as well as between rows. Repeated comparisons on one gate set find a winner by chance, so each is stricter
    than the one before (`comparison.tail`).
    """
    client, current, seen = MlflowClient(), champion(config), checksum(gate_set)
    use = 1 + len(client.search_model_versions(f"name = '{config.registered_model}' and tags.{GATE_SET} = '{seen}'"))
    predicted, pipelines = predict(challenger, gate_set), [challenger]
    if current is None:
        opponent, baseline = "the mean of the training set", np.full(len(gate_set), train[TARGET].mean())
    else:
        opponent, in_use = f"champion version {current.version}", load_version(current)
        baseline, pipelines = predict(in_use, gate_set), [challenger, in_use]
    seed_variance = between_seeds(pipelines, train, gate_set, config.seed)
    gain, low, high = gain_interval(gate_set[TARGET].to_numpy(), baseline, predicted, seed_variance, tail(use))
    refusal = unfair(current, gate_set, source) if current else ""
    compared_on = seen if current and not refusal else ""
    refusal = refusal or too_little(gain, low, use, config.minimum_gain)
    reason = refusal or "better by more than chance"
    return Verdict(not refusal, opponent, gain, low, high, reason, use, compared_on)


def record_comparison(config: Settings, verdict: Verdict) -> None:
    """Tag the champion with the gate set of a comparison: promotion requires that both models have the same one."""
    current = champion(config)
    if current and verdict.compared_on:
        MlflowClient().set_model_version_tag(current.name, current.version, SCORED_ON, verdict.compared_on)


def unfair(current: ModelVersion, gate_set: pd.DataFrame, source: str) -> str:
    """Return why a comparison with the champion would not be fair, or an empty text."""
    if source == "sample" and MlflowClient().get_run(current.run_id).data.tags.get(SOURCE) != "sample":
        return "a model of made-up wine does not replace one of real wine"
    known = set(mlflow.artifacts.load_text(f"runs:/{current.run_id}/{TRAINED_ON}").split())
    seen = wine_keys(gate_set).isin(known).sum()
    return f"the champion was trained on {seen} of the {len(gate_set)} rows of the gate set" if seen else ""


def load_version(version: ModelVersion) -> Pipeline:
    """Load the pipeline of a version."""
    try:
        return mlflow.sklearn.load_model(f"models:/{version.name}/{version.version}")
    except (MlflowException, OSError, ValueError) as error:
        raise unloadable(version, error) from error


def unloadable(version: ModelVersion, error: Exception) -> RegistryError:
    """Return the error of a version whose files are gone or broken."""
    return RegistryError(
        f"{version.name} version {version.version} does not load ({error}). Give the alias champion to another version."
    )


def promote(config: Settings, version: str) -> None:
    """Give a version the alias `champion`, and note on it which version had the alias before. It is no challenger then.

    Raises
    ------
    RegistryError
        The run behind the version is not finished, or its signature or gate set is not that of the champion.
    """
    client, current = MlflowClient(), champion(config)
    if current and str(current.version) == version:
        crown(current.name, version)  # an earlier try may have been stopped halfway
        return
    wanted = client.get_model_version(config.registered_model, version)
    if refusal := unfit(wanted, current):
        raise RegistryError(
            f"{wanted.name} version {version} is not promoted: {refusal}. Train it again with `make run`."
        )
    if current:
        client.set_model_version_tag(wanted.name, version, REPLACED, str(current.version))
    crown(wanted.name, version)
    add_note(wanted.name, version, f"champion, in place of {f'version {current.version}' if current else 'none'}.")
    if current:
        add_note(wanted.name, str(current.version), f"replaced as champion by version {version}.")


def unfit(wanted: ModelVersion, current: ModelVersion | None) -> str:
    """Return why a version cannot take the place of the champion, whatever its scores, or an empty text."""
    status = MlflowClient().get_run(wanted.run_id).info.status
    if status != "FINISHED":
        return f"its run is {status.lower()}, not finished"
    if current is None:
        return ""
    if signature(wanted) != signature(current):
        return f"its signature differs from that of the champion, version {current.version}"
    if scored_on(wanted) != scored_on(current):
        return f"its gate set is not that of the champion, version {current.version}"
    return ""


def signature(version: ModelVersion) -> ModelSignature | None:
    """Return what a version takes and gives."""
    try:
        return get_model_info(f"models:/{version.name}/{version.version}").signature
    except (MlflowException, OSError) as error:
        raise unloadable(version, error) from error


def scored_on(version: ModelVersion) -> str | None:
    """Return the checksum of the gate set on which a version was compared, the last one if there were several."""
    return version.tags.get(SCORED_ON) or MlflowClient().get_run(version.run_id).data.tags.get(SCORED_ON)


def rollback(config: Settings) -> str:
    """Give the alias `champion` back to the version that had it before, and return its number.

    Raises
    ------
    RegistryError
        There is no champion, none before it, or the one before does not load.
    """
    current = champion(config)
    earlier = current and current.tags.get(REPLACED)
    if not earlier:
        raise RegistryError(f"{config.registered_model} has no earlier champion. Give the alias to a version by hand.")
    client = MlflowClient()
    load_version(client.get_model_version(config.registered_model, earlier))
    crown(config.registered_model, earlier)
    add_note(config.registered_model, earlier, f"champion again: version {current.version} was rolled back.")
    add_note(config.registered_model, str(current.version), f"rolled back; version {earlier} is champion again.")
    return earlier


def lineage(version: ModelVersion) -> dict[str, str]:
    """Return where a version comes from: its run, the wine, the gate set and the commit of the code."""
    run = MlflowClient().get_run(version.run_id)
    told = {name: run.data.tags.get(name, "unknown") for name in (SOURCE, "data_sha256", SCORED_ON, "git_commit")}
    return {"run": run.info.run_name, "run_id": run.info.run_id, **told}


def trained_on_same_inputs(config: Settings, inputs: str) -> ModelVersion | None:
    """Return the newest version with a checksum of inputs that still has its files, or None."""
    found = MlflowClient().search_model_versions(f"name = '{config.registered_model}' and tag.{INPUTS} = '{inputs}'")
    return max((one for one in found if FILES not in one.tags), key=lambda one: int(one.version), default=None)


def tag_inputs(config: Settings, version: str, inputs: str) -> None:
    """Tag a version with the checksum of its inputs. Do so last: a version that was half published is trained again."""
    MlflowClient().set_model_version_tag(config.registered_model, version, INPUTS, inputs)
