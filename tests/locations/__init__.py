"""One monolith, two new sides with a ledger each, and Dagster deployments whose code locations work on them."""
