"""What is expected of a recording, beside what its declared columns say."""

from checks.suite import Suite
from checks.suites._content import legacy, new

suite = Suite(new=new("audio", "duration_seconds"), legacy=legacy("audio"))
