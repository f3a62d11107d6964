"""The reports alone, as a package of entities."""
