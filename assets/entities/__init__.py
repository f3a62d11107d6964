"""One file an entity, found by itself; files that begin with an underscore are shared parts."""
