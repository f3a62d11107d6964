"""How long a committed edit takes to show in the new tables."""

from demo.lag.observer import TABLES, Observer
from demo.lag.pending import LoggedEdit
from demo.lag.report import Report

__all__ = ["TABLES", "LoggedEdit", "Observer", "Report"]
