from assets.entities.text import entity as declared
from tests.caught._tables import caught

entity = caught(declared)
