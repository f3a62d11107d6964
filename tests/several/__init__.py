"""Entities of which one has two tables, two indices, two sinks of files and an endpoint, fed by one read."""
