"""The demo's entities, caught as TEST_CAPTURE says; few key ranges instead of a hundred months."""
