"""Rebuild: a new index is filled beside the one that readers use, compared with the ledger, and put in its place."""
