"""Entities of which rows are parts of a legacy row, for processes that are killed."""
