"""The demo's entities, caught as TEST_CAPTURE says."""
