"""What people ask about one object: why it is, or is not, in each sink, and how that came about. Writes nothing."""
