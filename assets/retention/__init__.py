"""Retention: what Dagster keeps of runs, events, logs, backfills and check results, to stay quick and small."""

from assets.retention.forget import Forgotten, Limits, Scope, forget_old, keep_connections
from assets.retention.job import limits_from, retention_job

__all__ = ["Forgotten", "Limits", "Scope", "forget_old", "keep_connections", "limits_from", "retention_job"]
