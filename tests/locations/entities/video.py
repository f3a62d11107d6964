from assets.entities.video import entity as declared
from tests.locations.entities._side import on_side

entity = on_side(declared)
