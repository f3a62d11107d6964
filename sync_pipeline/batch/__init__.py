"""A batch: what is asked of it, what it found, and how it is written."""
