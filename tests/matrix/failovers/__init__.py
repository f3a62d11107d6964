"""Failovers of either side, by source, under eight writers."""
