"""The engine: moves rows, documents and media from a legacy monolith to a new read side."""
