"""A monolith nobody would design, made so that each point hurts: its schema, contents, writers, and an oracle."""
