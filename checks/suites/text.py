"""What is expected of an article, beside what its declared columns say."""

from checks.suite import Suite
from checks.suites._content import legacy, new

suite = Suite(new=new("text", "reading_seconds"), legacy=legacy("text"))
