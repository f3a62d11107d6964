"""Reconciliation: does the new side hold what the monolith holds? One verdict over rows, documents and files."""
