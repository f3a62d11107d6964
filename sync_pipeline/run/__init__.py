"""What runs batches, and when: follower, sweep, backfill and their upkeep."""
