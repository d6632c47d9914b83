"""The ways to read a run, as commands to copy: `society sql NAME --how`."""

from __future__ import annotations

import shlex

from society.runs.folder import RunFolder
from society.runs.status import name_command
from store.reader import open_reader
from store.sql_client import read_address
from store.sql_server import format_curl_command


def list_ways(folder: RunFolder) -> list[str]:
    """One line for each way: what it is for, and the command.

    A running run answers other tools through its socket; the file of a run at rest can be opened by
    anything that reads DuckDB.
    """
    command = name_command("sql", folder)
    ways = [
        ("a prompt", command),
        ("one query", f'{command} "FROM accuracy"'),
        ("a file", f'{command} "FROM turns" --out turns.parquet'),
        ("Python", f"society.open_run({folder.name!r}).query('FROM accuracy').frame()"),
        ("a browser", name_command("view", folder)),
    ]
    with open_reader(folder.database) as reader:
        running = reader.running
    address = read_address(folder.database) if running else None
    if address is not None:
        ways.append(("other tools, as CSV", format_curl_command(address)))
    elif not running:
        ways.append(
            ("DuckDB's own prompt", f"duckdb -readonly {shlex.quote(str(folder.database))}")
        )
    width = max(len(name) for name, _ in ways) + 2
    return [f"{name:<{width}}{text}" for name, text in ways]
