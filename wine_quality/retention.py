"""How long a training run keeps its files: the model, the data and the report, in MLflow's store and in the bucket.

Parameters, scores, tags and versions stay for good. What is needed again is never deleted: the files of the champion,
of the version that a rollback returns to, and of the challenger. A version whose files are gone says so in a tag. The
tag is set before the first file is deleted and completed after the last one, so that the next run finishes what a
killed one began.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from wine_quality import storage
from wine_quality.registry import CHALLENGER, CHAMPION, FILES, REPLACED
from wine_quality.tracking import Store

BEGUN = "being deleted"  # the value of the tag as long as that is not done


def beyond_newest(store: Store, keep: int) -> list[ModelVersion]:
    """Return the versions whose files may go because `keep` newer runs have theirs, the oldest first."""
    return deletable(store, versions(store)[:-keep])


def older_than(store: Store, moment: datetime) -> list[ModelVersion]:
    """Return the versions whose files may go because they were registered before a moment, the oldest first."""
    old = [one for one in versions(store) if one.creation_timestamp < 1000 * moment.timestamp()]
    return deletable(store, old)


def versions(store: Store) -> list[ModelVersion]:
    """Return all versions of the model, the oldest first."""
    found = store.client.search_model_versions(f"name = '{store.model_name}'")
    return sorted(found, key=lambda one: int(one.version))


def deletable(store: Store, found: list[ModelVersion]) -> list[ModelVersion]:
    """Return those of some versions that are not needed again and still have files."""
    needed = needed_again(store)
    return [one for one in found if str(one.version) not in needed and one.tags.get(FILES, BEGUN) == BEGUN]


def needed_again(store: Store) -> set[str]:
    """Return the numbers of the champion, of the version that a rollback returns to, and of the challenger."""
    client = store.client
    if not client.search_registered_models(f"name = '{store.model_name}'"):
        return set()
    aliases = client.get_registered_model(store.model_name).aliases
    needed = {str(aliases[name]) for name in (CHAMPION, CHALLENGER) if name in aliases}
    if CHAMPION in aliases:
        champion = client.get_model_version(store.model_name, aliases[CHAMPION])
        needed |= {champion.tags[REPLACED]} if REPLACED in champion.tags else set()
    return needed


def delete_files(store: Store, bucket: Any, version: ModelVersion, mlruns: Path) -> None:
    """Delete a version's files from the bucket and from MLflow's store on this machine, and note that on the version.

    An MLflow server elsewhere keeps what it has: its store is not this machine's to delete from.

    Raises
    ------
    StorageError
        The bucket cannot be used, or the keys may not delete.
    """
    client = store.client
    client.set_model_version_tag(version.name, version.version, FILES, BEGUN)
    for folder in local_folders(store, version, mlruns):
        if folder.is_dir():
            shutil.rmtree(folder)
    storage.delete(bucket, version.run_id)
    client.set_model_version_tag(version.name, version.version, FILES, f"deleted on {datetime.now(UTC):%Y-%m-%d}")


def local_folders(store: Store, version: ModelVersion, mlruns: Path) -> list[Path]:
    """Return the folders under `mlruns` in which the files of a version and of its run lie."""
    run = store.client.get_run(version.run_id)
    places = [run.info.artifact_uri, *(store.client.get_logged_model(id).artifact_location for id in model_ids(run))]
    folders = [Path(url2pathname(urlparse(place).path)) for place in places if urlparse(place).scheme in ("file", "")]
    return [folder for folder in folders if mlruns.resolve() in folder.resolve().parents]


def model_ids(run: Run) -> list[str]:
    """Return the ids of the models that a run has logged."""
    return [output.model_id for output in run.outputs.model_outputs] if run.outputs else []
