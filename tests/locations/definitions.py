"""The repository's definitions with short times: runs of half a minute, and little patience.

A test then sees in one minute what takes a quarter of an hour where the times are the real ones.
"""

from assets import lost_runs, sensors

WINDOW_SECONDS = 30.0
START_SECONDS = 12.0

lost_runs.START_SECONDS = START_SECONDS
sensors.START_SECONDS = START_SECONDS
sensors.WINDOW_MINUTES = WINDOW_SECONDS / 60
sensors._HANDOVER_SECONDS = 8.0
sensors._LEAST_WORK_SECONDS = 5.0

from assets.definitions import definitions  # noqa: E402, F401
