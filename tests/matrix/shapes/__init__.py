"""Table shapes of monoliths, each caught by each source while a writer goes on."""
