"""The whole move, played once: history and live changes through Dagster, then one verdict."""
