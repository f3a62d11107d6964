"""Connections to every store: sessions, pools, breakers, and which servers they reach."""
