"""Dagster asset checks: reconciliation of each sink."""
