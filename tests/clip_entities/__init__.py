"""The clip alone, as a package of entities."""
