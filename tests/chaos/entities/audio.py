from dataclasses import replace

from sync_pipeline.partitions import KeyRanges
from tests.caught.audio import entity as caught

entity = replace(caught, partitions=KeyRanges(3))
