"""The bucket: that of the block `wine-bucket`, else the one that AWS settings name, else one on this laptop."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect.exceptions import ObjectNotFound
from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket

from wine_quality.config import Settings
from wine_quality.errors import StorageError
from wine_quality.local_s3 import Endpoint, local_keys, local_s3
from wine_quality.ports import listens

BLOCK = "wine-bucket"
AWS_SETTINGS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN")
REGION = "us-east-1"
CLIENT = {
    "connect_timeout": 3,
    "read_timeout": 10,
    "retries": {"total_max_attempts": 1},
    "response_checksum_validation": "when_required",
}


@contextmanager
def wine_bucket(config: Settings) -> Iterator[tuple[S3Bucket, str]]:
    """Yield the bucket, and in words where it is; where it is on this laptop and asleep, its server runs meanwhile."""
    bucket = saved_bucket() or bucket_of_environment(config)
    with ExitStack() as servers:
        if bucket is None:
            bucket = bucket_at(servers.enter_context(local_s3(config)), config)
        elif address_of(bucket) == laptop(config).url and not listens(config.s3_port):
            servers.enter_context(local_s3(config, config.s3_port))
        yield bucket, whereabouts(config, bucket)


def saved_bucket() -> S3Bucket | None:
    """Return the bucket of the block, or None where there is no such block.

    Raises
    ------
    StorageError
        There is a block, and it cannot be used.
    """
    try:
        return S3Bucket.load(BLOCK)
    except ValueError as error:
        if isinstance(error.__cause__, ObjectNotFound):
            return None
        raise StorageError(f"block {BLOCK}: cannot be used ({error}). Mend it in the UI, or delete it.") from error


def bucket_of_environment(config: Settings) -> S3Bucket | None:
    """Return the bucket that the AWS settings name, or None where there are none."""
    if not any(os.environ.get(name) for name in AWS_SETTINGS):
        return None
    return S3Bucket(bucket_name=config.bucket, credentials=credentials_of_environment())


def bucket_at(endpoint: Endpoint, config: Settings) -> S3Bucket:
    """Return the bucket of a server on this laptop."""
    return S3Bucket(bucket_name=config.bucket, credentials=credentials_of(endpoint))


def laptop(config: Settings) -> Endpoint:
    """Return the S3 server of `make up`."""
    return Endpoint(f"http://127.0.0.1:{config.s3_port}", *local_keys(config))


def address_of(bucket: S3Bucket) -> str | None:
    """Return where a bucket's server is, None where it is Amazon's own."""
    return bucket.credentials.aws_client_parameters.endpoint_url


def whereabouts(config: Settings, bucket: S3Bucket) -> str:
    """Say in words where a bucket is."""
    address, folder = address_of(bucket), config.local / "s3" / bucket.bucket_name
    if address and address.startswith("http://127.0.0.1") and folder.is_dir():
        return f"On this laptop, in the folder `{folder}`"
    return f"In the bucket `{bucket.bucket_name}` at {address or 'AWS'}"


def credentials_of_environment() -> AwsCredentials:
    """Return the usual AWS variables as a block; what is not set there boto3 finds where it always looks."""
    endpoint_url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return AwsCredentials(
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=os.environ.get("AWS_SESSION_TOKEN"),
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or REGION,
        aws_client_parameters=AwsClientParameters(endpoint_url=endpoint_url, config=CLIENT),
    )


def credentials_of(endpoint: Endpoint) -> AwsCredentials:
    """Return the keys and address of a local server as a block."""
    return AwsCredentials(
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        region_name=REGION,
        aws_client_parameters=AwsClientParameters(endpoint_url=endpoint.url, config=CLIENT),
    )
