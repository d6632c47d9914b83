"""Which of DuckDB's functions a query may call.

In FROM only those listed here, which read the database itself; in an expression all but those that
act. DuckDB says which functions it has, and whether each can stand in an expression.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import closing
from functools import cache

import duckdb

# DuckDB's binder takes time with the cube of the depth: 900 nested calls are minutes.
MAX_DEPTH = 100

# Functions in FROM that read nothing but the database itself.
TABLE_FUNCTIONS = frozenset(
    {
        "duckdb_columns",
        "duckdb_constraints",
        "duckdb_databases",
        "duckdb_functions",
        "duckdb_indexes",
        "duckdb_keywords",
        "duckdb_schemas",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "generate_series",
        "generate_subscripts",
        "histogram",
        "histogram_values",
        "json_each",
        "json_tree",
        "pragma_show",
        "pragma_table_info",
        "range",
        "regexp_split_to_table",
        "repeat",
        "repeat_row",
        "summary",
        "unnest",
    }
)
# Functions in FROM that read the files they are given: where a user has allowed files.
FILE_FUNCTIONS = frozenset(
    {
        "glob",
        "parquet_bloom_probe",
        "parquet_file_metadata",
        "parquet_full_metadata",
        "parquet_kv_metadata",
        "parquet_metadata",
        "parquet_scan",
        "parquet_schema",
        "read_blob",
        "read_csv",
        "read_csv_auto",
        "read_duckdb",
        "read_json",
        "read_json_auto",
        "read_json_objects",
        "read_json_objects_auto",
        "read_ndjson",
        "read_ndjson_auto",
        "read_ndjson_objects",
        "read_parquet",
        "read_text",
        "sniff_csv",
    }
)
# Scalar functions that change something, hold the process up, or look outside the database.
ACTING_FUNCTIONS = frozenset(
    {
        "currval",
        "getenv",
        "getvariable",
        "json_serialize_plan",
        "nextval",
        "pg_sleep",
        "setseed",
        "sleep_ms",
        "write_log",
    }
)
# Functions that follow a JSON text as deep as it is nested, on the thread's stack: a text of
# 200,000 brackets ends the process.
RECURSIVE_FUNCTIONS = frozenset(
    {
        "from_json",
        "from_json_strict",
        "json_contains",
        "json_group_structure",
        "json_merge_patch",
        "json_structure",
        "json_transform",
        "json_transform_strict",
        "variant_extract",
        "variant_typeof",
    }
)
_KNOWN = """
SELECT lower(function_name), bool_or(function_type IN ('scalar', 'aggregate', 'macro'))
FROM duckdb_functions() GROUP BY ALL
"""


def find_acting_functions(functions: Set[str]) -> Set[str]:
    """Those of DuckDB's functions that do more than compute, or look outside the database."""
    return {name for name in functions if name in list_functions()} - list_reading_functions()


@cache
def list_functions() -> dict[str, bool]:
    """DuckDB's functions by name, and whether each can stand in an expression."""
    with closing(open_parser().cursor()) as parser:
        return dict(parser.execute(_KNOWN).fetchall())


@cache
def list_reading_functions() -> frozenset[str]:
    """The functions that compute, or look up what is in the database."""
    computing = (name for name, scalar in list_functions().items() if scalar)
    # The "__internal" functions are what DuckDB's optimizer writes, not what a user types.
    usable = (name for name in computing if not name.startswith("__internal"))
    return TABLE_FUNCTIONS | (frozenset(usable) - ACTING_FUNCTIONS)


@cache
def open_parser() -> duckdb.DuckDBPyConnection:
    """An empty database that reaches no file and whose settings are locked; one per process."""
    return duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "enable_external_access": "false",
            "max_expression_depth": str(MAX_DEPTH),
            "lock_configuration": "true",
        },
    )
