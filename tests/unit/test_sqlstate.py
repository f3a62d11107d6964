"""Whose fault a database error is, by its code."""

import psycopg2
import pytest
from psycopg2 import errors

from sync_pipeline.db import sqlstate


class Coded(psycopg2.Error):
    """An error as the driver gives it."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code

    @property
    def pgcode(self):
        return self.code


@pytest.mark.hazard(92)
@pytest.mark.parametrize(
    "code", ["08006", "40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "57P01", "58030", "25006", "25P03"]
)
def test_these_are_the_store_s(code):
    assert sqlstate.is_of_store(Coded(code))


@pytest.mark.hazard(92)
@pytest.mark.parametrize(
    "code", ["22001", "23505", "23P01", "42501", "42P01", "44000", "54000", "54001", "P0001", "P0002", "MY001", "XX000"]
)
def test_these_are_not(code):
    assert not sqlstate.is_of_store(Coded(code))


def test_an_error_without_a_code_is_the_connection_s():
    assert sqlstate.is_of_store(psycopg2.OperationalError("server closed the connection unexpectedly"))
    assert sqlstate.is_of_store(psycopg2.InterfaceError("connection already closed"))
    assert sqlstate.is_of_store(psycopg2.DatabaseError("lost synchronization with server"))
    assert not sqlstate.is_of_store(psycopg2.ProgrammingError("can't execute an empty query"))


@pytest.mark.parametrize("code", ["54000", "54001", "P0001", "P0002", "22P02", "2201E", "21000", "22012", "XX001"])
def test_what_a_query_raises_over_one_row_is_caught(code):
    assert issubclass(errors.lookup(code), sqlstate.ROW_FAULTS)


@pytest.mark.parametrize("code", ["42P01", "42703", "42501", "57014", "57P01", "08006", "40001", "0A000"])
def test_what_it_raises_over_all_rows_is_not(code):
    assert not issubclass(errors.lookup(code), sqlstate.ROW_FAULTS)
