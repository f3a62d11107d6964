"""Entities whose index refuses documents for good: a weight that is no number. One is put back, its twin is not."""
