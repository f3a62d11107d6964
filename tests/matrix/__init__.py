"""Whole matrices: every combination of what the suite tries one member of. `make matrix` plays them."""
