"""Fills the monolith: contents with tags and authors by COPY, files by a pool of uploads."""

from demo.load.loading import Loaded, load

__all__ = ["Loaded", "load"]
