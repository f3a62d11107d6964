"""The work queue: what is to be done for which key, what is parked, and dead letters."""
