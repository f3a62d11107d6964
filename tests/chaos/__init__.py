"""Faults at random on real servers, round by round; each round can be run again by its seed and number."""
