from dataclasses import replace

from sync_pipeline.partitions import KeyRanges
from tests.caught.text import entity as caught

entity = replace(caught, partitions=KeyRanges(3))
