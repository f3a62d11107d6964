"""The entity of `make bench-scale`: many narrow rows, without documents and files."""
