"""The bucket: from the block `wine-bucket`, or else from the environment, or else on this laptop."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from prefect.exceptions import ObjectNotFound
from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket

from wine_quality.config import Settings
from wine_quality.errors import StorageError
from wine_quality.local_s3 import Endpoint, local_keys, local_s3
from wine_quality.ports import listens
from wine_quality.storage import Bucket

BLOCK = "wine-bucket"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
ACCOUNTS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN")
REGION = "us-east-1"
CLIENT = {
    "connect_timeout": 3,
    "read_timeout": 10,
    "retries": {"total_max_attempts": 1},
    "request_checksum_calculation": "when_required",  # servers other than Amazon's may refuse the CRC headers
    "response_checksum_validation": "when_required",
}


@contextmanager
def wine_bucket(config: Settings) -> Iterator[tuple[Bucket, str]]:
    """Yield the bucket and a phrase that says where it is; start the S3 server on this machine if necessary."""
    bucket, _ = chosen(config)
    with ExitStack() as servers:
        if bucket is None:
            bucket = bucket_at(servers.enter_context(local_s3(config)), config)
        elif address_of(bucket) == laptop(config).url and not listens(config.s3_port):
            servers.enter_context(local_s3(config, config.s3_port))
        yield cast("Bucket", bucket), whereabouts(config, bucket)  # its stubs say that each call may be a coroutine


def bucket_line(config: Settings) -> str:
    """Return a line that says which bucket is used and why."""
    bucket, why = chosen(config)
    where = whereabouts(config, bucket)
    return f"{where[0].lower()}{where[1:]}: {why}"


def chosen(config: Settings) -> tuple[S3Bucket | None, str]:
    """Return the bucket to use, or None for the local one, and why."""
    if saved := saved_bucket():
        endpoint, ignored = first_set(ENDPOINTS), []
        if is_named(config) and config.bucket != saved.bucket_name:
            ignored.append("WINE_BUCKET")
        if endpoint and os.environ[endpoint] != address_of(saved):
            ignored.append(endpoint)
        remark = f"; {' and '.join(ignored)} ignored" if ignored else ""
        return saved, f"set by the block {BLOCK}{remark}"
    if names := named_by(config):
        return bucket_of_environment(config), f"set by {names}"
    account = first_set(ACCOUNTS)
    return None, f"{account} alone names no bucket; set WINE_BUCKET to use it" if account else "no other bucket is set"


def saved_bucket() -> S3Bucket | None:
    """Return the bucket of the block, or None if there is no such block; raise a `StorageError` if it is broken."""
    try:
        return S3Bucket.load(BLOCK)  # pyright: ignore[reportReturnType]
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise StorageError(f"block {BLOCK}: cannot be used ({error}). Fix it in the UI, or delete it.") from error


def named_by(config: Settings) -> str | None:
    """Return the environment variables that name a bucket elsewhere.

    Amazon is used only if `WINE_BUCKET` names the bucket. Keys or a profile that you exported for other work must not
    push to somebody else's bucket `wine-quality`.
    """
    account = first_set(ACCOUNTS)
    return first_set(ENDPOINTS) or (f"WINE_BUCKET and {account}" if account and is_named(config) else None)


def is_named(config: Settings) -> bool:
    """Return whether `WINE_BUCKET` is set, even if to the default."""
    return "bucket" in config.model_fields_set


def first_set(names: tuple[str, ...]) -> str | None:
    """Return the first environment variable that is set."""
    return next((name for name in names if os.environ.get(name)), None)


def bucket_of_environment(config: Settings) -> S3Bucket | None:
    """Return the bucket that the environment names, or None; boto3 looks for missing values in its usual places."""
    if not named_by(config):
        return None
    return s3_bucket(
        config,
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or REGION,
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=os.environ.get("AWS_SESSION_TOKEN"),
    )


def bucket_at(server: Endpoint, config: Settings) -> S3Bucket:
    """Return the bucket of a server on this laptop."""
    return s3_bucket(config, server.url, aws_access_key_id=server.access_key, aws_secret_access_key=server.secret_key)


def s3_bucket(config: Settings, url: str | None, region: str = REGION, **keys: Any) -> S3Bucket:
    """Return a bucket on the server at `url`, or on Amazon if that is None."""
    client = AwsClientParameters(endpoint_url=url, config=CLIENT)
    credentials = AwsCredentials(region_name=region, aws_client_parameters=client, **keys)
    return S3Bucket(bucket_name=config.bucket, credentials=credentials)


def laptop(config: Settings) -> Endpoint:
    """Return the S3 server of `make up`."""
    return Endpoint(f"http://127.0.0.1:{config.s3_port}", *local_keys(config))


def address_of(bucket: S3Bucket) -> str | None:
    """Return the address of a bucket's server, or None for Amazon."""
    return bucket.credentials.aws_client_parameters.endpoint_url


def whereabouts(config: Settings, bucket: S3Bucket | None) -> str:
    """Return a phrase that says where a bucket is. The local server is recognised by its random keys."""
    if bucket and getattr(bucket.credentials, "aws_access_key_id", None) != local_keys(config)[0]:
        return f"In the bucket `{bucket.bucket_name}` at {address_of(bucket) or 'Amazon S3'}"
    name = bucket.bucket_name if bucket else config.bucket
    return f"On this laptop, in the folder `{config.local / 's3' / name}`"
