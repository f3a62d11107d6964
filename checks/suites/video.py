"""What is expected of a film, beside what its declared columns say."""

from checks.suite import Suite
from checks.suites._content import legacy, new

suite = Suite(new=new("video", "duration_seconds"), legacy=legacy("video"))
