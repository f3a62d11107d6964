"""The environment variables that point the engine, Dagster and the demo's own tools at the demo's servers."""

from __future__ import annotations

import shlex
from urllib.parse import urlsplit

from demo.buckets import REGION
from demo.fleet import LEGACY_BUCKET, TARGET_BUCKET, Addresses
from sync_pipeline.settings import Settings

ADMIN_SETTING = "SYNC_DEMO_ADMIN_DB"


def variables(at: Addresses) -> dict[str, str]:
    """Names and values."""
    dagster = urlsplit(at.dagster_url)
    return {
        "SYNC_LEGACY_DB": at.monolith.reader_url,
        "SYNC_TARGET_DB": at.catalog_url,
        "SYNC_SEARCH_URL": at.search_url,
        "SYNC_LEGACY_S3_ENDPOINT": at.objects_url,
        "SYNC_LEGACY_S3_BUCKET": LEGACY_BUCKET,
        "SYNC_TARGET_S3_ENDPOINT": at.objects_url,
        "SYNC_TARGET_S3_BUCKET": TARGET_BUCKET,
        "AWS_ACCESS_KEY_ID": at.access_key,
        "AWS_SECRET_ACCESS_KEY": at.secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "DAGSTER_PG_HOST": dagster.hostname or "",
        "DAGSTER_PG_PORT": str(dagster.port),
        "DAGSTER_PG_USER": dagster.username or "",
        "DAGSTER_PG_PASSWORD": dagster.password or "",
        "DAGSTER_PG_DB": dagster.path.lstrip("/"),
        ADMIN_SETTING: at.monolith.admin_url,
    }


def settings(at: Addresses) -> Settings:
    """The same for an engine in this process, whose own environment holds no keys that boto3 could find."""
    keys = {
        f"SYNC_{side}_S3_{name}": value
        for side in ("LEGACY", "TARGET")
        for name, value in {
            "ACCESS_KEY_ID": at.access_key,
            "SECRET_ACCESS_KEY": at.secret_key,
            "REGION": REGION,
        }.items()
    }
    return Settings.from_env(variables(at) | keys)


def exports(at: Addresses) -> str:
    """Lines for a shell to evaluate."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables(at).items())
