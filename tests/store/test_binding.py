"""Values as literals, against what DuckDB itself makes of them."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.binding import bind, literal
from store.errors import InvalidQuery

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=8)
    | st.dates()
    | st.datetimes(min_value=datetime(1700, 1, 1))
)


@pytest.fixture(scope="module")
def ask():
    connection = duckdb.connect(":memory:")

    def answer(sql, params=None):
        [row] = connection.execute(bind(sql, params)).fetchall()
        return row

    return answer


@settings(max_examples=150, deadline=None)
@given(value=SCALARS)
def test_a_value_comes_back_as_it_went(ask, value):
    assert ask("SELECT ?", [value]) == (value,)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_lists_and_mappings_too(ask, values):
    assert ask("SELECT $1, $2", [values, {"a": values}]) == (values, {"a": values})


@pytest.mark.parametrize("value", [math.inf, -math.inf, Decimal("-1.50"), -7])
def test_signs_do_not_run_together(ask, value):
    assert ask("SELECT -(-?), ?", [value, value]) == (value, value)
    assert math.isnan(ask("SELECT ?", [math.nan])[0])


def test_a_time_with_a_zone_stays_that_moment(ask):
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert ask("SELECT ?::TIMESTAMPTZ = '2026-01-02 04:04:05+01'", [moment]) == (True,)
    assert ask("SELECT ?", [date(2026, 1, 2)]) == (date(2026, 1, 2),)


def test_what_only_looks_like_a_parameter_stays(ask):
    sql = """SELECT '? é $1', "?", /* ? */ $$ ? $$, ? -- ?
    FROM (SELECT 1 AS "?")"""
    assert ask(sql, ["it"]) == ("? é $1", 1, " ? ", "it")


def test_all_kinds_of_parameters(ask):
    assert ask("SELECT ?, 'é', ?", [1, 2]) == (1, "é", 2)
    assert ask("SELECT $2, $1, $2, $1+$2", [1, 2]) == (2, 1, 2, 3)
    assert ask("SELECT $b_1, $a, $größe", {"a": 1, "b_1": 2, "größe": 3}) == (2, 1, 3)
    assert ask("SELECT [1, 2, 3][?:?]", [2, 3]) == ([2, 3],)
    assert ask("SELECT 1 WHERE 3 IN ? LIMIT ?", [[3, 4], 1]) == (1,)


def test_missing_and_left_over_values_are_named():
    with pytest.raises(InvalidQuery, match="parameter '2'"):
        bind("SELECT ?, ?", [1])
    with pytest.raises(InvalidQuery, match="no parameter b"):
        bind("SELECT $a", {"a": 1, "b": 2})
    with pytest.raises(InvalidQuery, match="a set cannot be sent"):
        literal({1})
