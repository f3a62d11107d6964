"""A work's title in one language."""

from tests import parted

entity = parted.TITLE
