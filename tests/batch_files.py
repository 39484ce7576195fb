"""Files in a bucket."""

from typing import Any

import pandas as pd


def put(bucket: Any, name: str, content: str | bytes | pd.DataFrame) -> None:
    """Put a file under `incoming/`, a table as CSV or Parquet."""
    if isinstance(content, pd.DataFrame):
        content = content.to_parquet(index=False) if name.endswith("parquet") else content.to_csv(index=False)
    body = content if isinstance(content, bytes) else content.encode()
    bucket.credentials.get_s3_client().put_object(Bucket=bucket.bucket_name, Key=f"incoming/{name}", Body=body)


def contents(bucket: Any) -> dict[str, bytes]:
    """Return the content of each file in a bucket."""
    client = bucket.credentials.get_s3_client()
    keys = [entry["Key"] for entry in bucket.list_objects("")]
    return {key: client.get_object(Bucket=bucket.bucket_name, Key=key)["Body"].read() for key in keys}
