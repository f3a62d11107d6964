"""The demo's entities, with the aliases and prefixes of the new side that TEST_SIDE names."""
