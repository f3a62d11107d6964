"""One file an entity, by its name; files that begin with an underscore are shared parts."""
