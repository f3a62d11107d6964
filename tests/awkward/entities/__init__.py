"""The awkward monolith's entities, caught as TEST_CAPTURE says."""
