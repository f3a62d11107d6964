"""The user's side: entities, and their Dagster definitions."""
