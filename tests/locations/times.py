"""Short times for deployments under test: a minute shows what takes a quarter of an hour with the real ones."""

WINDOW_SECONDS = 30.0
START_SECONDS = 12.0
HANDOVER_SECONDS = 8.0
LEAST_WORK_SECONDS = 5.0
