import math

import pytest

from demo.lag.pending import LoggedEdit, Pending, TargetRow
from demo.lag.report import Report


@pytest.fixture
def pending():
    return Pending()


def test_an_edit_arrives_with_the_commit_of_its_version(pending):
    pending.log([LoggedEdit(1, "edit", 5, 100.0)])
    pending.sample([1], [TargetRow(1, 4, 100.2)], at=100.3)
    assert len(pending) == 1
    pending.sample([1], [TargetRow(1, 5, 100.5)], at=109.0)
    assert pending.report().lags == (0.5,)


def test_a_newer_version_settles_the_older_edits(pending):
    pending.log([LoggedEdit(1, "edit", 5, 100.0), LoggedEdit(1, "publish", 6, 101.0)])
    pending.sample([1], [TargetRow(1, 6, 102.0)], at=103.0)
    assert pending.report().lags == (2.0, 1.0)


def test_a_soft_delete_arrives_when_the_row_is_gone(pending):
    pending.log([LoggedEdit(1, "edit", 5, 100.0), LoggedEdit(1, "soft_delete", 6, 101.0)])
    pending.sample([1], [TargetRow(1, 5, 101.5)], at=101.6)
    assert len(pending) == 1
    pending.sample([1], [], at=103.0)
    assert pending.report().lags == (1.5, 2.0)


def test_an_absent_row_does_not_settle_an_edit(pending):
    pending.log([LoggedEdit(1, "create", 1, 100.0)])
    pending.sample([1], [], at=101.0)
    report = pending.report()
    assert report.undelivered == 1
    assert report.share(0.5) == math.inf


def test_what_a_hard_delete_overtook_is_left_out(pending):
    pending.log([LoggedEdit(1, "edit", 5, 100.0), LoggedEdit(1, "hard_delete", 6, 100.1)])
    pending.log([LoggedEdit(2, "poison", 1, 100.0)])
    pending.sample([1, 2], [TargetRow(1, 4, 90.0)], at=101.0)
    report = pending.report()
    assert (report.edits, report.hard_deletes, report.overtaken, report.poison) == (0, 1, 1, 1)


def test_shares_go_by_the_nearest_rank():
    report = Report(tuple(float(n) for n in range(1, 100)), undelivered=1, hard_deletes=0, overtaken=0, poison=0)
    assert report.figures() == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": math.inf}


def test_no_edits_have_no_figures():
    assert math.isnan(Report((), 0, 0, 0, 0).share(0.5))
