"""The database layer: SQL, COPY and Arrow, keys and digests."""
