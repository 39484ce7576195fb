"""How long a training run keeps its files: the model, the data and the report, in MLflow's store and in the bucket.

Parameters, scores, tags and versions are never deleted, nor are the files of the champion, of the version that a
rollback returns to, of the challenger, and of a version that waits for approval. A version whose files are gone has a
tag that says so. The tag is set before the first file is deleted and completed after the last one, so that the next run
finishes what a killed one began.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from wine_quality import storage
from wine_quality.registry import APPROVAL, CHALLENGER, CHAMPION, FILES, REPLACED
from wine_quality.storage import Bucket
from wine_quality.tracking import Store

BEGUN = "being deleted"  # the value of the tag until that is done


def beyond_newest(store: Store, keep: int) -> list[ModelVersion]:
    """Return the versions whose files may go because `keep` newer runs have theirs, the oldest first."""
    return deletable(store, versions(store)[:-keep])


def older_than(store: Store, moment: datetime) -> list[ModelVersion]:
    """Return the versions whose files may go because they were registered before a moment, the oldest first."""
    old = [version for version in versions(store) if version.creation_timestamp < 1000 * moment.timestamp()]
    return deletable(store, old)


def versions(store: Store) -> list[ModelVersion]:
    """Return all versions of the model, the oldest first."""
    found = store.client.search_model_versions(f"name = '{store.model_name}'")
    return sorted(found, key=lambda version: int(version.version))


def deletable(store: Store, candidates: list[ModelVersion]) -> list[ModelVersion]:
    """Return the versions that are not protected and still have files."""
    protected = protected_versions(store)
    return [
        version
        for version in candidates
        if str(version.version) not in protected and version.tags.get(FILES, BEGUN) == BEGUN
    ]


def protected_versions(store: Store) -> set[str]:
    """Return the numbers of the champion, its predecessor, the challenger, and those that wait for approval."""
    client = store.client
    if not client.search_registered_models(f"name = '{store.model_name}'"):
        return set()
    aliases = client.get_registered_model(store.model_name).aliases
    protected = {str(aliases[name]) for name in (CHAMPION, CHALLENGER) if name in aliases}
    if CHAMPION in aliases:
        champion = client.get_model_version(store.model_name, aliases[CHAMPION])
        protected |= {champion.tags[REPLACED]} if REPLACED in champion.tags else set()
    waiting = (one for one in versions(store) if one.tags.get(APPROVAL, "approved") not in ("approved", "rejected"))
    return protected | {str(version.version) for version in waiting}


def delete_files(store: Store, bucket: Bucket, version: ModelVersion, mlruns: Path) -> None:
    """Delete a version's files from the bucket and from MLflow's store on this machine, and tag the version.

    What an MLflow server elsewhere stores is not deleted. Raise `StorageError` if the bucket refuses.
    """
    client = store.client
    client.set_model_version_tag(version.name, version.version, FILES, BEGUN)
    for folder in local_folders(store, version, mlruns):
        if folder.is_dir():
            shutil.rmtree(folder)
    storage.delete(bucket, str(version.run_id))
    client.set_model_version_tag(version.name, version.version, FILES, f"deleted on {datetime.now(UTC):%Y-%m-%d}")


def local_folders(store: Store, version: ModelVersion, mlruns: Path) -> list[Path]:
    """Return the folders under `mlruns` in which the files of a version and of its run lie."""
    run = store.run_of(version)
    places = [run.info.artifact_uri, *(store.client.get_logged_model(id).artifact_location for id in model_ids(run))]
    folders = [Path(url2pathname(urlparse(place).path)) for place in places if urlparse(place).scheme in ("file", "")]
    return [folder for folder in folders if mlruns.resolve() in folder.resolve().parents]


def model_ids(run: Run) -> list[str]:
    """Return the ids of the models that a run has logged."""
    return [output.model_id for output in run.outputs.model_outputs] if run.outputs else []
