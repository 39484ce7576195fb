"""The bucket: what a run leaves in S3.

A run's files go to `runs/<run id>/`, and last of all `manifest.json` with the sha256 sum of each: a run without a
manifest does not exist. Files wait in an outbox until they are pushed, so nothing is lost while the bucket is away.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from wine_quality.errors import StorageError, StorageUnavailable
from wine_quality.files import sha256, translate_disk_errors

MANIFEST = "manifest.json"
REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "ExpiredToken", "InvalidToken"}

Entry = dict[str, Any]  # an object as S3 lists it


class Bucket(Protocol):
    """What the functions here, and those of `batches` and `retention`, use of a `prefect_aws.S3Bucket`."""

    bucket_name: str
    credentials: Any

    def list_objects(self, folder: str) -> Any:
        """Return the objects under a prefix, a list of `Entry`."""

    def read_path(self, path: str) -> Any:
        """Return the content of an object as bytes."""

    def write_path(self, path: str, content: bytes) -> Any:
        """Create or replace an object."""

    def upload_from_path(self, from_path: Path, to_path: str) -> Any:
        """Upload a file."""

    def download_object_to_path(self, from_path: str, to_path: Path) -> Any:
        """Download an object to a file."""


def add_to_outbox(outbox: Path, run_id: str, files: dict[str, Path | bytes]) -> list[str]:
    """Put a run's files and their manifest in the outbox, where they appear all at once; return their names.

    One process at a time may do so: it removes what another one left unfinished.
    """
    waiting, aside = outbox / run_id, outbox / f".part-{run_id}"
    with translate_disk_errors(waiting):
        for unfinished in outbox.glob(".part-*"):
            shutil.rmtree(unfinished)
        aside.mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, aside / name)
            else:
                (aside / name).write_bytes(content)
        manifest = {"run_id": run_id, "files": {name: sha256(aside / name) for name in files}}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2))
        aside.rename(waiting)
    return [*files, MANIFEST]


def push_waiting(bucket: Bucket, outbox: Path) -> list[str]:
    """Push every run that waits in the outbox, oldest first, and return their ids.

    Raise `StorageUnavailable` if the bucket does not answer (retry), else `StorageError`. The rest stays in the outbox.
    """
    check_reachable(bucket)
    for pushed in outbox.glob(".pushed-*"):
        shutil.rmtree(pushed)
    waiting = [folder for folder in outbox.glob("*") if not folder.name.startswith(".")]
    waiting.sort(key=lambda folder: folder.stat().st_mtime)
    for folder in waiting:
        push(bucket, folder)
        shutil.rmtree(folder.rename(outbox / f".pushed-{folder.name}"))
    return [folder.name for folder in waiting]


def push(bucket: Bucket, folder: Path) -> None:
    """Upload a run's folder to `runs/<folder name>/`, the manifest last."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    with translate_s3_errors(bucket.bucket_name):
        for name in [*names, MANIFEST]:
            bucket.upload_from_path(folder / name, f"runs/{folder.name}/{name}")


def pull(bucket: Bucket, run_id: str, folder: Path) -> list[Path]:
    """Download a run's files into `folder`; raise `StorageError` if one is missing or differs from the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    key = f"runs/{run_id}/{MANIFEST}"
    with translate_s3_errors(bucket.bucket_name, key):
        manifest = bucket.read_path(key)
    try:
        files: dict[str, str] = dict(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{key}: not the file that was pushed (it is damaged).") from None
    for name in files:
        key = f"runs/{run_id}/{name}"
        with translate_s3_errors(bucket.bucket_name, key):
            bucket.download_object_to_path(key, folder / name)
    for name, expected in files.items():
        if sha256(folder / name) != expected:
            (folder / name).unlink()
            raise StorageError(f"runs/{run_id}/{name}: not the file that was pushed (its sha256 sum differs).")
    return [folder / name for name in files]


def delete(bucket: Bucket, run_id: str) -> None:
    """Delete a run's objects, its manifest first, so that a run that is half deleted does not exist.

    One at a time, because a request that deletes several carries a checksum header that not every S3 server takes.
    """
    client = bucket.credentials.get_s3_client()
    with translate_s3_errors(bucket.bucket_name):
        keys = [entry["Key"] for entry in bucket.list_objects(f"runs/{run_id}/")]
        for key in sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST}")):
            client.delete_object(Bucket=bucket.bucket_name, Key=key)


def runs(bucket: Bucket) -> dict[str, dict[str, int]]:
    """Return the size in bytes of each file in the bucket, by run id and name, the oldest run first."""
    check_reachable(bucket)
    with translate_s3_errors(bucket.bucket_name):
        entries = bucket.list_objects("runs/")
    sizes: dict[str, dict[str, int]] = {}
    for entry in sorted(entries, key=lambda entry: entry["LastModified"]):
        run_id, _, name = entry["Key"].removeprefix("runs/").partition("/")
        if name:  # else not of a run, such as what a file manager leaves
            sizes.setdefault(run_id, {})[name] = entry["Size"]
    return sizes


def check_reachable(bucket: Bucket) -> None:
    """Raise a `StorageError` that says why if the bucket cannot be listed."""
    with translate_s3_errors(bucket.bucket_name):
        bucket.credentials.get_s3_client().list_objects_v2(Bucket=bucket.bucket_name, MaxKeys=1)


@contextmanager
def translate_s3_errors(name: str, key: str = "the object") -> Iterator[None]:
    """Turn an error of the S3 client into a `StorageError` that names bucket and object and says what to do."""
    try:
        yield
    except S3UploadFailedError as error:
        raise storage_error(name, key, error.__context__ or error) from None
    except RetriesExceededError as error:
        raise StorageUnavailable(f"bucket {name}: the download of {key} broke off ({error.last_exception}).") from None
    except (ClientError, BotoCoreError) as error:
        raise storage_error(name, key, error) from None


def storage_error(name: str, key: str, error: BaseException) -> StorageError:
    """Return an error of the S3 client as one of ours; `key` is the object of the request."""
    response: dict[str, Any] = dict(error.response) if isinstance(error, ClientError) else {}
    code = response.get("Error", {}).get("Code", "")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind, what = StorageError, f"{str(error).strip() or type(error).__name__}."
    if isinstance(error, ReadTimeoutError | ConnectTimeoutError):
        what = f"the endpoint does not answer ({error}). Fix the network, AWS_ENDPOINT_URL_S3 or the block."
    elif isinstance(error, EndpointConnectionError):
        kind = StorageUnavailable
        what = f"connection refused ({error}). Start the server, or fix AWS_ENDPOINT_URL_S3 or the block."
    elif isinstance(error, NoCredentialsError):
        what = "no keys. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    elif code == "NoSuchBucket":
        what = "there is no such bucket. Create it, or set WINE_BUCKET to one you have."
    elif code in {"NoSuchKey", "404"}:
        what = f"{key} is not there. It was never put into this bucket, or was deleted."
    elif code in REFUSED:
        what = f"the keys are refused ({code}). Fix AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or the block."
    elif status >= 500:
        kind = StorageUnavailable
    return kind(f"bucket {name}: {what}")
