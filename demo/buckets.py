"""S3 buckets and the client that reaches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sync_pipeline.sinks.media.ownership import MARK_OBJECT

# a second to import: whoever only needs the region does without
if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"


def s3_client(endpoint: str, access_key: str, secret_key: str, connections: int = 32) -> S3Client:
    """A client for a loopback server: never by way of a proxy."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=REGION,
        config=Config(
            proxies={}, max_pool_connections=connections, s3={"addressing_style": "path"}, retries={"max_attempts": 5}
        ),
    )


def create_bucket(client: S3Client, name: str) -> None:
    """Make a bucket unless it is there."""
    if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=name)


def remove_marks(client: S3Client, name: str) -> None:
    """Remove what marks prefixes of a bucket as another ledger's: that ledger is dropped, and a new one made."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for item in page.get("Contents", []):
            if item["Key"].endswith(f"/{MARK_OBJECT}"):
                client.delete_object(Bucket=name, Key=item["Key"])
