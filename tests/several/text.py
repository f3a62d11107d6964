"""The demo's own."""

from assets.entities.text import entity

__all__ = ["entity"]
