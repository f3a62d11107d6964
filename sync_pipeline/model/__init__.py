"""Value types that every other module may use. They import nothing of the engine."""
