"""Every type of PostgreSQL's, with its special values, as a value, in arrays, composites and domains, and as a key."""
