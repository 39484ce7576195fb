"""The bucket of the pipeline: yours where AWS settings are given, else one on this laptop."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket

from wine_quality.config import Settings
from wine_quality.local_s3 import Endpoint, local_s3

AWS_SETTINGS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN")
REGION = "us-east-1"
CLIENT = {
    "connect_timeout": 3,
    "read_timeout": 10,
    "retries": {"total_max_attempts": 1},
    "response_checksum_validation": "when_required",
}


def is_local() -> bool:
    """Say whether the environment names no S3, so that a server on this laptop stands in for it."""
    return not any(os.environ.get(name) for name in AWS_SETTINGS)


def whereabouts(config: Settings) -> str:
    """Say in words where the bucket is."""
    if is_local():
        return f"On this laptop, in the folder `{config.local / 's3' / config.bucket}`"
    return f"In the bucket `{config.bucket}` at {endpoint_url() or 'AWS'}"


def endpoint_url() -> str | None:
    """Return the address of the S3 that the environment names, None where it is Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


@contextmanager
def wine_bucket(config: Settings) -> Iterator[S3Bucket]:
    """Yield the bucket that the environment names; where it names none, run a server on loopback meanwhile."""
    if is_local():
        with local_s3(config) as endpoint:
            yield S3Bucket(bucket_name=config.bucket, credentials=credentials_of(endpoint))
    else:
        yield S3Bucket(bucket_name=config.bucket, credentials=credentials_of_environment())


def credentials_of_environment() -> AwsCredentials:
    """Return the usual AWS variables as a block; what is not set there boto3 finds where it always looks."""
    return AwsCredentials(
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=os.environ.get("AWS_SESSION_TOKEN"),
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or REGION,
        aws_client_parameters=AwsClientParameters(endpoint_url=endpoint_url(), config=CLIENT),
    )


def credentials_of(endpoint: Endpoint) -> AwsCredentials:
    """Return the keys and address of a local server as a block."""
    return AwsCredentials(
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        region_name=REGION,
        aws_client_parameters=AwsClientParameters(endpoint_url=endpoint.url, config=CLIENT),
    )
