"""A bucket that travels to another process: boto3 alone, opened there, without Prefect."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from wine_quality.storage import Bucket, Entry


@dataclass
class PlainBucket:
    """The same bucket as another one, by the parameters of its client. These hold the keys, so they never print.

    It is pickled before it's opened. Keys that expire are not renewed.
    """

    bucket_name: str
    folder: str
    parameters: dict[str, Any] = field(repr=False)

    @classmethod
    def like(cls, bucket: Bucket) -> "PlainBucket":
        """Return what opens a `prefect_aws.S3Bucket` elsewhere."""
        account = bucket.credentials
        session = account.get_boto3_session()
        parameters = {"region_name": session.region_name} | account.aws_client_parameters.get_params_override()
        if credentials := session.get_credentials():
            keys = credentials.get_frozen_credentials()
            names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
            parameters |= dict(zip(names, (keys.access_key, keys.secret_key, keys.token), strict=True))
        return cls(bucket.bucket_name, getattr(bucket, "bucket_folder", ""), parameters)

    @cached_property
    def client(self) -> Any:
        """The client, which threads may share."""
        return boto3.Session().client("s3", **self.parameters)

    @property
    def credentials(self) -> "PlainBucket":
        """What gives the client."""
        return self

    def get_s3_client(self) -> Any:
        """Return the client."""
        return self.client

    def key(self, path: str) -> str:
        """Return the key of an object by its path in the folder."""
        return f"{self.folder.rstrip('/')}/{path}" if self.folder else path

    def list_objects(self, folder: str) -> list[Entry]:
        """Return the objects under a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket_name, Prefix=self.key(folder))
        return [entry for page in pages for entry in page.get("Contents", [])]

    def read_path(self, path: str) -> bytes:
        """Return the content of an object."""
        return self.client.get_object(Bucket=self.bucket_name, Key=self.key(path))["Body"].read()

    def write_path(self, path: str, content: bytes) -> None:
        """Create or replace an object."""
        self.client.put_object(Bucket=self.bucket_name, Key=self.key(path), Body=content)

    def upload_from_path(self, from_path: Path, to_path: str) -> None:
        """Upload a file."""
        self.client.upload_file(str(from_path), self.bucket_name, self.key(to_path))

    def download_object_to_path(self, from_path: str, to_path: Path) -> None:
        """Download an object to a file."""
        self.client.download_file(self.bucket_name, self.key(from_path), str(to_path))
