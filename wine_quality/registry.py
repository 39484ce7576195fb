"""The model registry: versions, their aliases, and the gate.

The alias `champion` names the version that is in use, `challenger` the newest one unless it is the champion. A
challenger becomes champion only if its RMSE on the gate set is lower by a minimum effect and the gain is statistically
significant. The description of a version, which MLflow shows, is its model card.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.sklearn import load_model
from sklearn.pipeline import Pipeline

from wine_quality import comparison
from wine_quality.comparison import Gain
from wine_quality.errors import RegistryError
from wine_quality.files import sha256
from wine_quality.splits import in_gate_set, key_numbers, row_keys
from wine_quality.templates import render
from wine_quality.tracking import (
    BY_HASH,
    IMPORTANCE,
    INTERVAL_SUM,
    MODEL_FILE,
    SCORED_ON,
    SLICES,
    SOURCE,
    TRAINED_ON,
    Store,
    Tracked,
    checksum,
    download_model,
    retried,
)

CHAMPION, CHALLENGER = "champion", "challenger"
REPLACED = "replaced"  # the tag of a version that names the champion before it
MODEL_SHA256, INTERVAL_SHA256 = "model_sha256", "interval_sha256"  # the tags with the checksums of its files
INPUTS = "inputs_sha256"  # the tag with the checksum of everything its model depends on, set after it is published
DISTINCT_ROWS = "distinct_rows_sha256"  # the tag with the checksum of the rows that it was trained and compared on
MLMODEL = "MLmodel"  # the file that describes a logged model
FILES = "files"  # the tag of a version whose files were deleted
APPROVAL = "approval"  # the tag of a version that a person has to approve: the waiting flow run, or the result
GATE_SET = "gate_set_sha256"  # the tag with the checksum of the gate set on which it was compared


@dataclass(frozen=True)
class Verdict:
    """The result of comparing a challenger with the champion, and the reason for the decision.

    `gain` is by how much its RMSE on the gate set is lower than that of `opponent`, with the interval `low` to `high`
    at the level `confidence`; `by_slice` has the same for each slice of the gate set, if there was a champion. `use`
    counts the comparisons on this gate set, from 1. `compared_on` is the checksum of the gate set if there was a fair
    comparison with a champion, otherwise empty, and `champion` is the number of that version.
    """

    promoted: bool
    opponent: str
    gain: float
    low: float
    high: float
    reason: str
    use: int
    compared_on: str = ""
    champion: str | None = None
    by_slice: dict[str, Gain] = field(default_factory=dict)

    @property
    def confidence(self) -> float:
        """The level of the interval, 0 to 1."""
        return comparison.confidence(self.use)


def champion(store: Store) -> ModelVersion | None:
    """Return the version with the alias `champion`, or None."""
    return with_alias(store, CHAMPION)


def challenger(store: Store) -> ModelVersion | None:
    """Return the version with the alias `challenger`, or None."""
    return with_alias(store, CHALLENGER)


def registered_at(version: ModelVersion) -> datetime:
    """Return when a version was registered (UTC)."""
    return datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)


def with_alias(store: Store, alias: str) -> ModelVersion | None:
    """Return the version with an alias, or None."""
    try:
        return store.client.get_model_version_by_alias(store.model_name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


@retried
def register(store: Store, run: Tracked, tags: dict[str, str]) -> str:
    """Register a run's model as the next version, under the alias `challenger`, and return the version's number.

    The tags of the version have the checksums of the model file, of the interval file, if there is one, and of the gate
    set, so that `compare` can count its uses. If an earlier attempt failed after registering the run, its version is
    reused.
    """
    client = store.client
    if not client.search_registered_models(f"name = '{store.model_name}'"):
        client.create_registered_model(store.model_name)
    earlier = client.search_model_versions(f"name = '{store.model_name}' and run_id = '{run.run_id}'")
    if earlier:
        registered = earlier[0]
    else:
        source = client.get_logged_model(run.model_id).artifact_location  # models:/ would use the process-wide store
        of_run, names = client.get_run(run.run_id).data.tags, {SCORED_ON: GATE_SET, INTERVAL_SUM: INTERVAL_SHA256}
        tags = tags | {ours: of_run[name] for name, ours in names.items() if name in of_run}
        registered = client.create_model_version(store.model_name, source, run.run_id, tags, model_id=run.model_id)
    version = str(registered.version)
    if MODEL_SHA256 not in registered.tags:
        with tempfile.TemporaryDirectory() as folder:
            checksum_of_model = sha256(download_model(store, run.model_id, Path(folder) / MODEL_FILE))
        client.set_model_version_tag(store.model_name, version, MODEL_SHA256, checksum_of_model)
    client.set_registered_model_alias(store.model_name, CHALLENGER, version)
    return version


def describe(store: Store, version: str, verdict: Verdict, waits: bool = False) -> str:
    """Write a version's model card from its run and the verdict, store it as its description and return it.

    `waits` is whether a person has yet to approve a promotion.
    """
    run = store.run_of(store.client.get_model_version(store.model_name, version))
    card = render(
        "model-card.md.j2",
        name=store.model_name,
        version=version,
        run_name=run.info.run_name,
        params=run.data.params,
        tags=run.data.tags,
        metrics=run.data.metrics,
        rows=row_counts(run),
        slices=read_table(store, run, SLICES),
        importance=read_table(store, run, IMPORTANCE),
        verdict=verdict,
        waits=waits,
    )
    store.client.update_model_version(store.model_name, version, card)
    return card


def row_counts(run: Run) -> dict[str, int]:
    """Return the number of rows of each dataset of a run, by its context, such as `training`."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    contexts = {tag.value: one.dataset for one in inputs for tag in one.tags}
    return {context: json.loads(str(dataset.profile))["num_rows"] for context, dataset in contexts.items()}


def read_table(store: Store, run: Run, name: str) -> pd.DataFrame | None:
    """Return a table that a run logged, or None if there is none."""
    if name not in {file.path for file in store.client.list_artifacts(run.info.run_id)}:
        return None
    return pd.read_csv(StringIO(store.read_text(run.info.run_id, name)), index_col=0)


def add_note(store: Store, version: str, note: str) -> None:
    """Add a line with the current time to the description of a version."""
    client, now = store.client, datetime.now(UTC)
    before = client.get_model_version(store.model_name, version).description or ""
    client.update_model_version(store.model_name, version, f"{before}\n\n{now:%Y-%m-%d %H:%M} UTC: {note}".strip())


@retried
def set_champion(store: Store, version: str) -> None:
    """Give a version the alias `champion`, and remove `challenger` from it."""
    store.client.set_registered_model_alias(store.model_name, CHAMPION, version)
    if str(store.client.get_registered_model(store.model_name).aliases.get(CHALLENGER)) == version:
        store.client.delete_registered_model_alias(store.model_name, CHALLENGER)


def compare(
    store: Store, challenger: Pipeline, train: pd.DataFrame, gate_set: pd.DataFrame, source: str,
    *, seed: int, minimum_gain: float, column: str = "",
) -> Verdict:  # fmt: skip
    """Compare a challenger, fitted on `train`, with the champion on the gate set, or with the training mean if none.

    Both sets have shape (n rows, 13), with distinct rows, and no row is in both. The challenger passes if its RMSE is
    lower by at least `minimum_gain` and the whole interval of the gain is above zero. Two models that differ only in
    the seed have different RMSEs, so the interval covers the variance between seeds, from refits whose seeds depend on
    `seed`, as well as that between rows. Repeated comparisons on one gate set find a winner by chance, so each is
    stricter than the one before (`comparison.tail`). A challenger that is significantly worse on a slice, including
    the slices of `column`, is rejected. Raise `RegistryError` if the champion does not load.
    """
    current, seen = champion(store), checksum(gate_set)
    use = 1 + len(versions_tagged(store, GATE_SET, seen))
    in_use = load_version(store, current) if current else None
    overall, by_slice = comparison.gains(challenger, in_use, train, gate_set, seed, use, column)
    opponent = f"champion version {current.version}" if current else "the mean of the training set"
    unfairness = unfairness_reason(store, current, gate_set, source) if current else ""
    refusal = unfairness or comparison.rejection_reason(overall, by_slice, use, minimum_gain)
    compared_on = seen if current and not unfairness else ""
    reason = refusal or "significantly better"
    measured = overall.gain, overall.low, overall.high
    number = str(current.version) if current else None
    return Verdict(not refusal, opponent, *measured, reason, use, compared_on, number, by_slice)


def versions_tagged(store: Store, tag: str, value: str) -> list[ModelVersion]:
    """Return the versions of the model that have a tag with a value."""
    return list(store.client.search_model_versions(f"name = '{store.model_name}' and tags.{tag} = '{value}'"))


@retried
def record_comparison(store: Store, verdict: Verdict) -> None:
    """Tag the champion with the gate set of a comparison, because a promotion requires that both have the same one."""
    current = champion(store)
    if current and verdict.compared_on:
        store.client.set_model_version_tag(current.name, current.version, SCORED_ON, verdict.compared_on)


def unfairness_reason(store: Store, current: ModelVersion, gate_set: pd.DataFrame, source: str) -> str:
    """Return why a comparison with the champion would not be fair, or an empty string."""
    if source == "sample" and store.run_of(current).data.tags.get(SOURCE) != "sample":
        return "a model trained on synthetic data does not replace one trained on real data"
    known = row_keys(gate_set).isin(store.read_text(str(current.run_id), TRAINED_ON).split())
    if BY_HASH in store.run_of(current).data.tags:  # trained on more rows than it logged, perhaps on these
        known |= ~in_gate_set(key_numbers(row_keys(gate_set)))
    seen = known.sum()
    return f"the champion was trained on {seen} of the {len(gate_set)} rows of the gate set" if seen else ""


def model_folder(store: Store, version: ModelVersion) -> str:
    """Return the address of the folder with a version's model."""
    return store.client.get_model_version_download_uri(version.name, str(version.version))


def load_version(store: Store, version: ModelVersion) -> Pipeline:
    """Load the pipeline of a version."""
    return load_artifact(store, version, model_folder(store, version), load_model)


def load_artifact(store: Store, version: ModelVersion, address: str, load: Callable[[Any], Any]) -> Any:
    """Download a file or folder of a version, and return the result of `load`, or raise `RegistryError`."""
    try:
        with tempfile.TemporaryDirectory() as aside:
            return load(store.download(address, aside))
    except Exception as error:  # a damaged file may raise any
        raise RegistryError(
            f"{version.name} version {version.version} does not load ({error}). "
            "Give the alias champion to another version."
        ) from error


def promote(store: Store, version: str, compared: bool = False) -> None:
    """Give a version the alias `champion`, and tag it with the version that had the alias before.

    Raise `RegistryError` if its run is not finished, or its signature is not that of the champion, or its gate set
    isn't, unless the two were `compared` before.
    """
    current = champion(store)
    if current and str(current.version) == version:
        set_champion(store, version)  # an earlier attempt may have been interrupted
        return
    candidate = store.client.get_model_version(store.model_name, version)
    if refusal := refusal_reason(store, candidate, current, compared):
        raise RegistryError(
            f"{candidate.name} version {version} is not promoted: {refusal}. Train it again with `make run`."
        )
    if current:
        store.client.set_model_version_tag(candidate.name, version, REPLACED, str(current.version))
    set_champion(store, version)
    add_note(store, version, f"champion, in place of {f'version {current.version}' if current else 'none'}.")
    if current:
        add_note(store, str(current.version), f"replaced as champion by version {version}.")


@retried
def await_approval(store: Store, version: str, flow_run_id: str) -> None:
    """Tag a version with the flow run that is waiting for its approval."""
    store.client.set_model_version_tag(store.model_name, version, APPROVAL, flow_run_id)


def awaiting(store: Store, flow_run_id: str) -> list[str]:
    """Return the versions whose approval a flow run is waiting for."""
    return [str(version.version) for version in versions_tagged(store, APPROVAL, flow_run_id)]


@retried
def end_approval(store: Store, version: str, result: str, decided: bool = True) -> None:
    """Record the result of an approval, such as `approved`, in the tag and the description of a version.

    `decided` is whether a person decided. If not, the next run with the same inputs trains again.
    """
    if not decided:
        store.client.delete_model_version_tag(store.model_name, version, INPUTS)
    store.client.set_model_version_tag(store.model_name, version, APPROVAL, result.partition(":")[0])
    add_note(store, version, f"{result}.")


def promote_approved(store: Store, version: str, opponent: str | None, reason: str) -> None:
    """Promote a version that a person approved; raise `RegistryError` if another one became champion meanwhile.

    `opponent` is the number of the champion that it was compared with, None if there was none.
    """
    assert_unchanged(store, version, opponent)
    promote(store, version, compared=True)
    end_approval(store, version, f"approved: {reason or 'no reason given'}")


def assert_unchanged(store: Store, version: str, opponent: str | None) -> None:
    """Raise `RegistryError` unless the champion is `opponent`, to which the version was compared, or the version."""
    current = champion(store)
    if (current and str(current.version)) not in (opponent, version):
        raise RegistryError(
            f"version {version} was compared with {f'version {opponent}' if opponent else 'no champion'}, and another "
            "one has become champion since. Train again with `make run`."
        )


def refusal_reason(store: Store, candidate: ModelVersion, current: ModelVersion | None, compared: bool) -> str:
    """Return why a version cannot replace the champion, even with good scores, or an empty string."""
    status = store.run_of(candidate).info.status
    if status != "FINISHED":
        return f"its run is {status.lower()}, not finished"
    if current is None:
        return ""
    if signature(store, candidate) != signature(store, current):
        return f"its signature differs from that of the champion, version {current.version}"
    if not compared and scored_on(store, candidate) != scored_on(store, current):
        return f"its gate set differs from that of the champion, version {current.version}"
    return ""


def signature(store: Store, version: ModelVersion) -> ModelSignature | None:
    """Return the signature of a version."""
    return load_artifact(store, version, f"{model_folder(store, version)}/{MLMODEL}", Model.load).signature


def scored_on(store: Store, version: ModelVersion) -> str | None:
    """Return the checksum of the gate set on which a version was last compared."""
    return version.tags.get(SCORED_ON) or store.run_of(version).data.tags.get(SCORED_ON)


def rollback(store: Store) -> str:
    """Give the alias `champion` back to the version that had it before, and return its number.

    Raise `RegistryError` if there is no champion, or no version before it, or if that version does not load.
    """
    current = champion(store)
    earlier = current.tags.get(REPLACED) if current else None
    if not (current and earlier):
        raise RegistryError(f"{store.model_name} has no earlier champion. Give the alias to a version by hand.")
    load_version(store, store.client.get_model_version(store.model_name, earlier))
    set_champion(store, earlier)
    add_note(store, earlier, f"champion again: version {current.version} was rolled back.")
    add_note(store, str(current.version), f"rolled back; version {earlier} is champion again.")
    return earlier


def lineage(store: Store, version: ModelVersion) -> dict[str, str]:
    """Return where a version comes from: its run, the dataset, the gate set and the commit of the code."""
    run = store.run_of(version)
    tags = {name: run.data.tags.get(name, "unknown") for name in (SOURCE, "data_sha256", SCORED_ON, "git_commit")}
    return {"run": str(run.info.run_name), "run_id": run.info.run_id, **tags}


def trained_on_same_inputs(store: Store, inputs: str) -> ModelVersion | None:
    """Return the newest version with this checksum of inputs that still has its files, or None."""
    identical = [version for version in versions_tagged(store, INPUTS, inputs) if FILES not in version.tags]
    return max(identical, key=lambda version: int(version.version), default=None)


@retried
def tag_inputs(store: Store, version: str, inputs: str) -> None:
    """Tag a version with the checksum of its inputs. This comes last, so that a half-published one is trained again."""
    store.client.set_model_version_tag(store.model_name, version, INPUTS, inputs)
