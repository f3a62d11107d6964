"""A clip."""

from tests import clips

entity = clips.clip()
