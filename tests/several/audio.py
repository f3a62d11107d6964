"""The demo's own."""

from assets.entities.audio import entity

__all__ = ["entity"]
