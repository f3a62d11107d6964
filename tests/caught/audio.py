from assets.entities.audio import entity as declared
from tests.caught._tables import caught

entity = caught(declared)
