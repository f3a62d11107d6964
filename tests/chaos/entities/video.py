from dataclasses import replace

from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.http import HttpEndpoint
from tests.caught.video import entity as caught

_ITEM = "$TEST_RECEIVER_URL/items/{key}"
ITEMS = HttpEndpoint(_ITEM, ("header", "version"), read_url=_ITEM, where="is_public", timeout_seconds=5.0)

entity = replace(caught, partitions=KeyRanges(3), sinks=(*caught.sinks, ITEMS))
