"""All matrices, in the order in which they are played."""

from tests.matrix.failovers.cells import FAILOVERS_BY_SOURCE
from tests.matrix.faults import FAULTS_BY_SOURCE
from tests.matrix.locations import LOCATIONS
from tests.matrix.shapes.cells import SHAPES_BY_SOURCE
from tests.matrix.types.cells import TYPES
from tests.matrix.values import VALUES

MATRICES = (SHAPES_BY_SOURCE, TYPES, VALUES, FAILOVERS_BY_SOURCE, FAULTS_BY_SOURCE, LOCATIONS)
