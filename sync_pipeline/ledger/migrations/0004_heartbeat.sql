-- Not only followers are seen: whoever works in a run of its own says so.
ALTER TABLE sync.follower RENAME TO heartbeat;
